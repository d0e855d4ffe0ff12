// What the page asks of the server it came from.

function broken(error) {
  throw error.name === "AbortError" ? error : new Error("The server cannot be reached, or the connection to it broke.");
}

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const response = await fetch(path, { ...options, headers }).catch(broken);
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  throw Object.assign(new Error(message), { status: response.status });
}

async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder(); // keeps the beginning of a character that two chunks share
  let rest = "";
  for (let done = false; !done; ) {
    const chunk = await reader.read().catch(broken);
    done = chunk.done;
    rest += decoder.decode(chunk.value, { stream: !done });
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
  throw new Error("The connection to the server broke before the end.");
}

/** Ask a model; `on` has functions that take what comes. Returns the trace, or null where none came. */
async function complete(model, question, settings, signal, on = {}) {
  const { temperature, ...extension } = settings;
  const response = await request("v1/chat/completions", {
    method: "POST",
    signal,
    body: JSON.stringify({
      model,
      messages: [{ role: "user", content: question }],
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature === undefined ? {} : { temperature }),
      specreason: { trace: true, ...(on.draft ? { drafts: true } : {}), ...extension },
    }),
  });
  let trace = null;
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    const delta = chunk.choices?.[0]?.delta ?? {};
    const step = chunk.specreason?.step;
    if (step) on.step?.(step);
    else if (is("string", chunk.specreason?.draft)) on.draft?.(chunk.specreason);
    else if (delta.reasoning_content) on.reasoning?.(delta.reasoning_content);
    if (delta.content) on.answer?.(delta.content);
    trace = chunk.specreason?.trace ?? trace;
  }
  return trace;
}

async function loadModels() {
  const { data } = await (await request("v1/models")).json();
  $("model").replaceChildren(...data.map((model) => new Option(model.id, model.id)));
}

/** Say what the server's models still wait for, until they are ready. */
async function watchStart() {
  for (;;) {
    const { status, doing } = await (await fetch("health")).json();
    $("starting").hidden = status !== "starting";
    if (status !== "starting") return;
    $("starting").textContent = `The models are starting: ${doing}`;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

