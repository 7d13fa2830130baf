// Says what to do about a refusal, by its status and code; the gateway's own message is always shown with it.

export function adviceFor(failure, { endpoint }) {
  const name = endpoint || "this endpoint";
  switch (failure.status) {
    case 0:
      return { title: "No connection", advice: "Check that the gateway is running (weighbridge status), then try again.", again: true };
    case 400:
      return { title: "The request was not understood", advice: "Change what the message names, then send it again.", again: true };
    case 401:
      return { title: "This key was not accepted", advice: "Check that it was pasted whole and has not been revoked, or use another key.",
        changeKey: true };
    case 403:
      return { title: "Not permitted", advice: `Ask an administrator for CAN_QUERY on ${name}, or choose another endpoint or key.`,
        changeKey: true };
    case 404:
      return { title: "No such endpoint", advice: "Read the list of endpoints again and choose one of them.", reload: true };
    case 413:
      return { title: "The request is too large", advice: "Start a new conversation, or shorten the message." };
    case 429:
      return failure.retryAfter !== null
        ? { title: "A limit is used up for now", advice: "Nothing was consumed. There will be room again shortly.", again: true }
        : { title: "A quota is used up", advice: "Trying again soon will not help. Wait for the reset that the message names, or ask an administrator for more.",
          again: false };
    case 502:
    case 504:
      return { title: "The model's server failed", advice: "Try again; if it goes on, give the request id to your administrator.", again: true };
    case 503:
      return failure.retryAfter !== null
        ? { title: "Not ready yet", advice: "The engine may still be warming up. This page tries again by itself.", again: true, byItself: true }
        : { title: "Out of service", advice: "Trying again will not help until an administrator has looked at the engine (weighbridge doctor)." };
    default:
      return failure.status < 300
        ? { title: "The answer is not complete", advice: "What arrived is kept above. Try again for a whole answer.", again: true }
        : { title: "Something went wrong", advice: "Try again; if it goes on, give the request id to your administrator.", again: true };
  }
}
