"use strict";
// Whatever came from a file, a model or the server is shown as text, never as markup.

const by = (id) => document.getElementById(id);
const form = by("form");
const LIMITS = { bytes: Number(form.dataset.maxBytes), size: form.dataset.maxSize, chars: Number(form.dataset.maxChars) };
const AGAIN_MILLISECONDS = 1500;
const chosen = { file: null, example: null, times: 0 };
let examples = [];
let ready = false;
let call = null; // of the question under way

const count = (number) => number.toLocaleString("en");

function complain(words) {
  by("trouble").textContent = words;
  by("trouble").hidden = !words;
}

async function wordsOf(response) {
  try {
    return (await response.json()).words || `The server answers ${response.status}.`;
  } catch {
    return `The server answers ${response.status}.`;
  }
}

// --- The image ---

function show(source, about) {
  const preview = by("preview");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.hidden = !source;
  by("prompt").hidden = Boolean(source);
  by("drop").classList.toggle("filled", Boolean(source));
  if (source) preview.src = source;
  else preview.removeAttribute("src");
  preview.alt = source ? "The image that is asked about" : "";
  by("about").textContent = about;
}

function forget(about) {
  chosen.file = null;
  chosen.example = null;
  chosen.times += 1;
  by("reference").hidden = true;
  if (call) call.abort();
  clear("No answer yet."); // those that are there are of another image
  by("status").textContent = "";
  mark();
  show("", about || "");
}

async function take(file) {
  complain("");
  forget("Reading …");
  const time = chosen.times;
  if (file.size > LIMITS.bytes) {
    forget();
    return complain(`The file has ${(file.size / 1e6).toFixed(1)} MB, and at most ${LIMITS.size} are taken. Choose a smaller one.`);
  }
  try {
    const response = await fetch("image", { method: "POST", body: file });
    const words = response.ok ? "" : await wordsOf(response);
    const shown = response.ok ? await response.blob() : null;
    if (time !== chosen.times) return; // another one was chosen meanwhile
    if (words) {
      forget();
      return complain(words);
    }
    const size = response.headers.get("X-Image-Size").replace("x", "×");
    const changes = response.headers.get("X-Image-Changes");
    show(URL.createObjectURL(shown), `${file.name}, ${size}` + (changes ? `; shown as the models see it: ${changes}` : ""));
    chosen.file = file;
  } catch {
    if (time !== chosen.times) return;
    forget();
    complain("The file could not be sent: the server does not answer, or the file has changed since.");
  }
}

function takeExample(number) {
  complain("");
  forget();
  chosen.example = number;
  const example = examples[number];
  show(`examples/${number}/image`, `Example ${example.id}`);
  by("reference-text").textContent = example.caption;
  by("reference-about").textContent = example.id;
  by("reference").hidden = false;
  mark();
  by("drop").scrollIntoView({ block: "nearest" }); // on a phone the list is far below
}

function mark() {
  document.querySelectorAll("#list button").forEach((button, number) => {
    button.setAttribute("aria-pressed", String(number === chosen.example));
  });
}

by("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files[0]);
  event.target.value = ""; // the same file again is a change, too
});
for (const name of ["dragover", "dragleave", "drop"]) {
  by("drop").addEventListener(name, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

// --- The question ---

function measure() {
  const length = by("question").value.length;
  const over = length > LIMITS.chars;
  by("count").textContent = over || length > 0.8 * LIMITS.chars ? `${count(length)} of ${count(LIMITS.chars)} characters` : "";
  by("question").setAttribute("aria-invalid", String(over));
}
by("question").addEventListener("input", measure);
by("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
for (const way of form.elements.way) {
  way.addEventListener("change", () => (by("temperature").disabled = form.elements.way.value === "greedy"));
}

function filled() {
  const data = new FormData();
  if (chosen.file) data.append("image", chosen.file);
  else if (chosen.example !== null) data.append("example", chosen.example);
  data.append("question", by("question").value);
  data.append("new_tokens", by("tokens").value);
  data.append("temperature", form.elements.way.value === "greedy" ? "0" : by("temperature").value);
  return data;
}

// --- The answers ---

const SIDES = ["base", "tuned"];
const answered = new Set(); // sides of the question under way, well or not
const ENDS = { stop: "", length: ", cut off", stopped: ", stopped" };

function clear(words) {
  answered.clear();
  for (const side of SIDES) {
    by(`${side}-text`).textContent = words;
    by(`${side}-text`).className = "said none";
    by(`${side}-about`).textContent = "";
  }
}

function busy(side, is) {
  document.querySelector(`article.${side}`).setAttribute("aria-busy", String(is));
}

function finish(side) {
  answered.add(side);
  busy(side, false);
}

const happens = {
  waiting(event) {
    by("status").textContent = event.ahead ? `${event.ahead} ${event.ahead === 1 ? "question is" : "questions are"} before yours.` : "";
  },
  start(event) {
    by("status").textContent = "The models answer.";
    by(`${event.side}-text`).textContent = "Looks at the image …";
    busy(event.side, true);
  },
  piece(event) {
    const text = by(`${event.side}-text`);
    if (text.classList.contains("none")) text.textContent = "";
    text.className = "said";
    text.textContent += event.text;
    if (event.new_tokens) by(`${event.side}-about`).textContent = `${event.new_tokens} tokens`;
  },
  end(event) {
    const text = by(`${event.side}-text`);
    text.className = event.text ? "said" : "said none";
    text.textContent = event.text || "It answered nothing.";
    const tokens = event.new_tokens ? `${count(event.new_tokens)} ${event.new_tokens === 1 ? "token" : "tokens"}, ` : "";
    by(`${event.side}-about`).textContent = `${tokens}${event.seconds.toFixed(1)} s${ENDS[event.finish]}`;
    finish(event.side);
  },
  trouble(event) {
    const text = by(`${event.side}-text`);
    text.className = "said trouble";
    text.textContent = event.words;
    finish(event.side);
  },
};

async function read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      happens[event.event](event);
    }
  }
}

function end(words) {
  for (const side of SIDES) {
    busy(side, false);
    const text = by(`${side}-text`);
    if (text.classList.contains("none") && !answered.has(side)) text.textContent = "No answer.";
  }
  by("status").textContent = words;
  by("ask").disabled = !ready;
  by("stop").hidden = true;
  call = null;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (call || !ready) return;
  complain("");
  if (!chosen.file && chosen.example === null) return complain("There is no image. Choose one, or take an example.");
  call = new AbortController();
  by("ask").disabled = true;
  by("stop").hidden = false;
  by("status").textContent = "Sending …";
  clear("Not yet.");
  try {
    const response = await fetch("ask", { method: "POST", body: filled(), signal: call.signal });
    if (!response.ok) {
      end("");
      return complain(await wordsOf(response));
    }
    await read(response.body);
    const whole = SIDES.every((side) => answered.has(side));
    end(whole ? "Both have answered." : "");
    if (!whole) complain("The server has ended before both answers were there. Ask again in a minute.");
  } catch (error) {
    const stopped = call && call.signal.aborted;
    end(stopped ? "Stopped." : "");
    if (!stopped) complain("The connection to the server is lost. What has come so far is shown; ask again in a minute.");
  }
});
by("stop").addEventListener("click", () => call && call.abort());

// --- The server's state ---

function list() {
  by("list").replaceChildren(
    ...examples.map((example, number) => {
      const button = document.createElement("button");
      const image = document.createElement("img");
      const caption = document.createElement("span");
      button.type = "button";
      button.addEventListener("click", () => takeExample(number));
      image.src = `examples/${number}/thumbnail`;
      image.alt = `Example ${number + 1}`;
      caption.textContent = example.caption;
      button.append(image, caption);
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  by("examples").hidden = !examples.length;
  mark();
}

async function look() {
  try {
    const response = await fetch("state");
    if (response.status === 401) return location.reload();
    const state = await response.json();
    if (state.examples.length !== examples.length) {
      examples = state.examples;
      list();
    }
    ready = state.ready;
    by("where").textContent = ready ? `Both models answer ${state.where}.` : "The models are being loaded.";
  } catch {
    by("where").textContent = "The server does not answer.";
  }
  by("ask").disabled = !ready || call !== null;
  if (!ready) {
    if (!call) by("status").textContent = "The models are being loaded; you can choose an image meanwhile.";
    setTimeout(look, AGAIN_MILLISECONDS);
  } else if (by("status").textContent.startsWith("The models are")) by("status").textContent = "";
}

by("ask").disabled = true;
measure();
look();
