// Who worked when: a bar for each request.

const purposeOf = (call) => (PURPOSES.includes(call.purpose) ? call.purpose : "reason");

function describe(call) {
  const times = `${call.start.toFixed(2)} to ${(call.start + call.seconds).toFixed(2)} s (${inSeconds(call.seconds)})`;
  const prompt = `a prompt of ${call.prompt_tokens}, ${call.cached_tokens} of them cached`;
  const counts = `${plural(call.completion_tokens, "token")} from ${prompt}`;
  const what = `${call.purpose} by the ${call.side} model${call.step ? `, step ${call.step}` : ""}`;
  return [what, times, counts, becameOf(call)].filter(Boolean).join("\n");
}

/** Why a request's result was not used; of a draft that was cut, how much was. */
function becameOf({ kept, lost, completion_tokens }) {
  if (kept > 0 && kept < 1) return `${Math.round(kept * completion_tokens)} of ${completion_tokens} tokens kept`;
  return kept ? "" : LOST[lost];
}

/** Put calls that overlap into rows below each other. */
function rowsOf(calls, tolerance) {
  const ends = [];
  for (const call of calls.sort((a, b) => a.start - b.start)) {
    let row = ends.findIndex((end) => end <= call.start + tolerance);
    if (row < 0) row = ends.length;
    ends[row] = call.start + call.seconds;
    call.row = row;
  }
  return Math.max(ends.length, 1);
}

function tickStep(total, wanted) {
  const rough = total / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((multiple) => multiple * power >= rough);
}

function hatches() {
  const defs = svg("defs");
  for (const purpose of PURPOSES) {
    const size = { width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
    const pattern = svg("pattern", { id: `hatch-${purpose}`, ...size });
    pattern.append(svg("rect", { width: 5, height: 5, fill: "var(--card)" }));
    pattern.append(svg("rect", { width: 1.7, height: 5, fill: colour(purpose), opacity: 0.8 }));
    defs.append(pattern);
  }
  return defs;
}

const COLOURS = { draft: "--draft", score: "--base-light", read: "--base-light" };
const colour = (purpose) => `var(${COLOURS[purpose] ?? "--base"})`;
const fill = (purpose, lost) => (lost ? `url(#hatch-${purpose})` : colour(purpose));

function barOf(call, isLost, place) {
  const purpose = purposeOf(call);
  const bar = svg("g", { class: `bar ${purpose}${isLost ? " lost" : ""}`, "data-step": call.step ?? "" });
  const edge = isLost ? { stroke: colour(purpose), "stroke-opacity": 0.6 } : {};
  bar.append(svg("title", {}, describe(call)), svg("rect", { ...place, ...edge, rx: 2.5, fill: fill(purpose, isLost) }));
  const label = [`${call.purpose} ${call.step ?? ""}`, call.purpose].find((text) => text.length * 6.2 + 8 < place.width);
  if (label && !isLost) bar.append(svg("text", { x: place.x + 5, y: place.y + 13 }, label));
  bar.addEventListener("click", () => $("timeline").classList.contains("dragged") || goTo(call.step));
  return bar;
}

function drawTimeline() {
  const calls = requestsOf(shown);
  const box = $("timeline");
  const total = Math.max(...calls.map((call) => call.start + call.seconds), shown.partial ? 0 : shown.seconds, 0);
  $("timeline-title").closest("section").hidden = !total;
  box.replaceChildren();
  if (!total) return;
  const gutter = 46, rowHeight = 22, gap = 10, end = 14;
  const width = Math.max(box.clientWidth, 200) * Number($("zoom").value);
  const x = (time) => gutter + ((width - gutter - end) * time) / total;
  const picture = svg("svg", { width, role: "img" });
  picture.append(hatches());
  const ticks = svg("g");
  picture.append(ticks);
  let y = 0;
  const busy = [];
  for (const side of ["draft", "base"]) {
    const lane = calls.filter((call) => call.side === side);
    if (!lane.length && shown.mode !== "specreason") continue;
    const height = rowsOf(lane, total / 500) * rowHeight;
    picture.append(svg("rect", { class: "floor", x: gutter, y, width: width - gutter - end, height, rx: 4 }));
    picture.append(svg("text", { class: `name ${side}`, x: 0, y: y + height / 2 + 4 }, side));
    for (const call of lane) {
      for (const [from, to, isLost] of [[0, call.kept, false], [call.kept, 1, true]].filter(([from, to]) => from < to)) {
        const left = x(call.start + call.seconds * from), width = Math.max(x(call.start + call.seconds * to) - left - 0.5, 1.2);
        picture.append(barOf(call, isLost, { x: left, y: y + call.row * rowHeight + 2, width, height: rowHeight - 4 }));
      }
    }
    busy.push(`${side} model: ${plural(lane.length, "request")}, ${inSeconds(sum(lane.map((call) => call.seconds)))}`);
    y += height + gap;
  }
  const step = tickStep(total, Math.max(width / 90, 2));
  for (let i = 0; i * step <= total; i++) {
    const at = x(i * step);
    ticks.append(svg("line", { class: "tick-line", x1: at, x2: at, y1: 0, y2: y }));
    ticks.append(svg("text", { x: at, y: y + 10, "text-anchor": "middle" }, `${short(i * step)} s`));
  }
  picture.setAttribute("height", y + 16);
  picture.setAttribute("aria-label", `${busy.join("; ")}; of ${inSeconds(total)}. The table below has them all.`);
  box.append(picture);
  showLegend(calls);
  showRequests();
}

function showLegend(calls) {
  const item = (name, purpose, lost) => {
    const sample = svg("rect", { x: 1, y: 1, width: 16, height: 10, rx: 2, fill: fill(purpose, lost), stroke: colour(purpose) });
    return element("li", "", svg("svg", { "aria-hidden": "true" }, sample), name);
  };
  const used = PURPOSES.filter((purpose) => calls.some((call) => purposeOf(call) === purpose));
  const items = used.map((purpose) => item(purpose, purpose, false));
  if (calls.some((call) => call.kept < 1)) items.push(item(`hatched: ${LOST.wasted}`, "draft", true));
  $("legend").replaceChildren(...items);
}

function showRequests() {
  if (!$("requests").open) return;
  const row = (tag, cells) => element("tr", "", ...cells.map((cell) => element(tag, "", String(cell ?? ""))));
  const rows = requestsOf(shown).sort((a, b) => a.start - b.start).map((call) => {
    const { side, purpose, step, completion_tokens, prompt_tokens, cached_tokens } = call;
    const times = [call.start.toFixed(2), call.seconds.toFixed(2)];
    return row("td", [...times, side, purpose, step, completion_tokens, prompt_tokens, cached_tokens, becameOf(call)]);
  });
  const titles = row("th", ["start", "seconds", "model", "purpose", "step", "tokens", "prompt", "cached", ""]);
  $("requests").querySelector("table").replaceChildren(titles, ...rows);
}

/** Make the bars of a step stand out; null: none. */
function pick(step) {
  $("timeline").classList.toggle("picked", step !== null);
  for (const bar of $("timeline").querySelectorAll(".bar")) bar.classList.toggle("on", bar.dataset.step === String(step));
}

function goTo(step) {
  const item = $("steps").children[step - 1];
  if (!item) return;
  item.scrollIntoView({ block: "center", behavior: isCalm() ? "auto" : "smooth" });
  item.classList.add("flash");
  setTimeout(() => item.classList.remove("flash"), 1200);
}


// ---- zoom, by wheel, keys and drag

/** Zoom by a factor; the time at `x` pixels from the left edge stays where it is. */
function zoomBy(factor, x) {
  const box = $("timeline"), zoom = $("zoom");
  const before = Number(zoom.value);
  zoom.value = Math.min(Math.max(before * factor, Number(zoom.min)), Number(zoom.max));
  const grown = Number(zoom.value) / before;
  if (grown === 1) return;
  const left = (box.scrollLeft + x) * grown - x;
  drawTimeline();
  box.scrollLeft = left;
}

$("timeline").addEventListener("wheel", (event) => {
  const isMeant = event.ctrlKey || event.metaKey || document.activeElement === $("timeline");
  if (!isMeant || !event.deltaY) return; // else the page could not be scrolled past it
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * 0.002), event.clientX - $("timeline").getBoundingClientRect().left);
}, { passive: false });
$("timeline").addEventListener("keydown", (event) => {
  const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 1 / 40 }[event.key];
  if (factor) zoomBy(factor, $("timeline").clientWidth / 2);
});
$("timeline").addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || event.button) return;
  const box = $("timeline");
  const from = event.clientX, left = box.scrollLeft;
  const ended = new AbortController();
  addEventListener("pointermove", (move) => {
    if (Math.abs(move.clientX - from) > 3) box.classList.add("dragged");
    box.scrollLeft = left - (move.clientX - from);
  }, ended);
  addEventListener("pointerup", () => {
    ended.abort();
    setTimeout(() => box.classList.remove("dragged")); // after the click that ends a drag
  }, ended);
});
$("zoom").addEventListener("input", drawTimeline);

// ---- picture

/** The timeline as a PNG, twice its size, with the question's headline above it. */
async function savePicture() {
  const drawn = $("timeline").querySelector("svg");
  const copy = drawn.cloneNode(true);
  const resolved = (node) => getComputedStyle(node);
  const originals = [...drawn.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((node, i) => {
    const { fill, stroke, fontSize, fontWeight } = resolved(originals[i]);
    for (const [name, value] of Object.entries({ fill, stroke, "font-size": fontSize, "font-weight": fontWeight })) node.setAttribute(name, value);
  });
  const width = Number(drawn.getAttribute("width")), height = Number(drawn.getAttribute("height")), top = 34, edge = 16;
  const page = getComputedStyle(document.body);
  const title = svg("text", { x: edge, y: 26, fill: page.color, "font-size": 14, "font-weight": 600 }, $("headline").textContent);
  copy.setAttribute("x", edge);
  copy.setAttribute("y", top);
  const size = { width: width + 2 * edge, height: height + top + edge };
  const back = svg("rect", { ...size, fill: getComputedStyle($("timeline").closest(".card")).backgroundColor });
  const whole = svg("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}`, "font-family": page.fontFamily }, back, title, copy);
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(whole))}`;
  await image.decode();
  const canvas = element("canvas");
  const scale = Math.min(2, 16000 / size.width);
  [canvas.width, canvas.height] = [size.width * scale, size.height * scale];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download("timeline.png", canvas.toDataURL("image/png"));
}

$("picture").addEventListener("click", savePicture);
