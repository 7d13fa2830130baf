// Says what the gateway is still waiting for, from /readyz, until it is ready; silent where it is.

const pause = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

// Calls `show` with a sentence while something is missing, and with null once nothing is.
export async function watchReadiness(show) {
  for (;;) {
    let response;
    try {
      response = await fetch("/readyz", { cache: "no-store" });
    } catch {
      show("The gateway cannot be reached.");
      await pause(3);
      continue;
    }
    if (response.status !== 503) return show(null);
    const { parts = {} } = await response.json().catch(() => ({}));
    const missing = Object.entries(parts).filter(([, state]) => state !== "ok").map(([name, state]) => `${name}: ${state}`);
    show(`Not ready yet. ${missing.join("; ") || "It is starting"}. Questions wait until it is.`);
    await pause(Math.min(10, Math.max(1, Number(response.headers.get("retry-after")) || 2)));
  }
}
