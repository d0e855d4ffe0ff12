// Files and links, and what the reader does.

const SAMPLES = [
  "A train goes 60 km in 45 minutes. How fast is it, in km/h?",
  "How many two-digit numbers have digits that add up to 9?",
  "What is the remainder of 7^100 divided by 5?",
];

async function open(file) {
  if (!file || going) return;
  try {
    const traces = readTraces(await file.text(), file.name);
    fail("");
    forgetExample();
    runs.push(...traces);
    show(traces[0]);
    $("run").scrollIntoView({ block: "nearest" });
  } catch (error) {
    fail(error.message);
  }
}

function save() {
  const url = URL.createObjectURL(new Blob([`${JSON.stringify(shown)}\n`], { type: "application/json" }));
  download(`trace-${shown.mode}.json`, url);
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** The example makes way for what the reader asks or opens. */
function forgetExample() {
  if (isExample) runs = runs.filter((run) => !embedded.includes(run));
}

// A link to a trace: its place in this page, or the whole trace, compressed. What is after the # stays in the browser.
const through = (data, stream) => new Response(new Blob([data]).stream().pipeThrough(stream));

async function pack(text) {
  const bytes = new Uint8Array(await through(text, new CompressionStream("deflate-raw")).arrayBuffer());
  const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function unpack(text) {
  const letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  return through(bytes, new DecompressionStream("deflate-raw")).text();
}

async function copyLink() {
  const place = embedded.indexOf(shown) + 1;
  history.replaceState(null, "", place ? `#run=${place}` : `#trace=${await pack(JSON.stringify(shown))}`);
  await navigator.clipboard?.writeText(location.href).catch(() => {}); // else the address bar has it
  $("link").textContent = "The link is copied";
  setTimeout(() => ($("link").textContent = "Copy a link"), 2000);
}

/** Show what the link asks for: a run, its race. */
async function followLink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  try {
    if (asked.has("trace")) {
      const [trace] = readTraces(await unpack(asked.get("trace")), "The link");
      forgetExample();
      runs.push(trace);
      show(trace);
    }
  } catch (error) {
    fail(error.message.startsWith("The link") ? error.message : "The link is damaged: it has no trace.");
  }
  const run = embedded[asked.get("run") - 1];
  if (run && run !== shown) show(run);
  if (asked.has("race") && race.traces && !$("controls").hidden) {
    $("speed").value = asked.get("race") || 8;
    $("speed").dispatchEvent(new Event("input"));
    $("play").click();
  }
}

// ---- what the reader does

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!going) ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!going) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => going?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") going?.abort();
});
$("repair").addEventListener("change", showRepair);
$("model").addEventListener("change", () => {
  for (const knob of KNOBS.filter(isOfPair)) $(idOf(knob)).disabled = $("model").value !== pair();
});
$("alone").addEventListener("click", () => (going ? going.abort() : askAlone()));
$("runs").addEventListener("change", () => show(runs[$("runs").selectedIndex]));
$("save").addEventListener("click", save);
$("reveal").addEventListener("change", () => {
  for (const rejected of $("steps").querySelectorAll("details")) rejected.open = $("reveal").checked;
});
$("regret").addEventListener("click", () => setShading(!shading));
$("what-if").addEventListener("input", showWhatIf);
$("link").addEventListener("click", copyLink);
addEventListener("hashchange", followLink);
$("shades").append(element("li", "", "Regret of the base model, in nats:"));
Object.keys(SHADES).forEach((name, i) => $("shades").append(element("li", "", element("span", `regret-${i + 1}`, name))));
$("requests").addEventListener("toggle", showRequests);
addEventListener("resize", () => shown && drawTimeline());

$("file").addEventListener("change", async () => {
  await open($("file").files[0]);
  $("file").value = ""; // so that the same file can be opened again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("drop", kind === "dragover");
    if (kind === "drop") open(event.dataTransfer.files[0]);
  });
}

showRepair();
runs = [...embedded];
if (runs.length) show(runs[0]);
if (location.protocol.startsWith("http") && (isExample || !runs.length)) {
  $("ask").hidden = false;
  if (isExample) $("question").value = runs[0].question;
  for (const sample of SAMPLES) {
    const button = element("button", "", sample);
    button.type = "button";
    button.addEventListener("click", () => {
      $("question").value = sample;
      $("question").focus();
    });
    $("samples").append(button);
  }
  watchStart().catch(() => {});
  loadModels().catch((error) => {
    $("key-field").hidden = error.status !== 401;
    if (error.status !== 401) fail("The server does not say which models it has. Saved traces can be opened.");
  });
}
followLink();
