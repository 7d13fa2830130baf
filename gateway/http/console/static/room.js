// Shows what the limits had left after the latest request, from OpenAI's x-ratelimit-* headers.

import { element } from "./answer.js";

const number = new Intl.NumberFormat("en");

export function drawRoom(section, meters, headers) {
  const rows = [];
  for (const metric of ["requests", "tokens"]) {
    const limit = Number(headers.get(`x-ratelimit-limit-${metric}`) ?? Number.NaN);
    const remaining = Number(headers.get(`x-ratelimit-remaining-${metric}`) ?? Number.NaN);
    if (!Number.isFinite(limit) || !Number.isFinite(remaining) || limit <= 0) continue;
    rows.push({ metric, limit, remaining, reset: headers.get(`x-ratelimit-reset-${metric}`) });
  }
  if (rows.length === 0) return; // an answer without these headers says nothing new
  meters.replaceChildren();
  for (const { metric, limit, remaining, reset } of rows) {
    const row = element("div", "meter");
    const label = element("p", "meter-label");
    label.append(element("span", "", metric === "tokens" ? "Tokens" : "Requests"),
      element("span", "meter-value", `${number.format(remaining)} of ${number.format(limit)}`));
    const track = element("div", "meter-track");
    const fill = element("div", "meter-fill");
    const share = Math.max(0, Math.min(1, remaining / limit));
    fill.style.width = `${100 * share}%`;
    fill.classList.toggle("low", share < 0.15);
    track.append(fill);
    row.append(label, track);
    if (reset) row.append(element("p", "meter-reset", `resets in ${reset.replace(/\.\d+s$/, "s")}`));
    meters.append(row);
  }
  section.hidden = false;
}
