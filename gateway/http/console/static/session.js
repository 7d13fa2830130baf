// Signs an administrator in: the page keeps a token that soon ends in place of a key that can do everything.

const SIGNED_IN = new Set(["admin", "auditor"]);

async function asked(path, key, method = "GET") {
  try {
    const response = await fetch(path, { method, headers: { authorization: `Bearer ${key}` }, cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null; // the admin API may be on another port, where this page cannot and need not reach it
  }
}

// {token, until} for a key of somebody with a role; null where the key itself is to be kept.
export async function signIn(key) {
  if (!key.startsWith("gk_")) return null;
  const me = await asked("/admin/v1/me", key);
  if (!Array.isArray(me?.roles) || !me.roles.some((role) => SIGNED_IN.has(role))) return null;
  const made = await asked("/admin/v1/sessions", key, "POST");
  const until = Date.parse(made?.expires_at ?? "");
  return typeof made?.token === "string" && Number.isFinite(until) ? { token: made.token, until } : null;
}
