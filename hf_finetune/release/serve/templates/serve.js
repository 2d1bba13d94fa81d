"use strict";
const get = (id) => document.getElementById(id);
const second = get("second"), blind = get("blind"), key = get("key");
let messages = [], comparison = null, running = null;

// Text of a model is only ever set as text: no markup of it is looked at.
function say(text) { get("notice").textContent = text; }

function headers() {
  const given = { "Content-Type": "application/json" };
  if (key && key.value) given.Authorization = "Bearer " + key.value;
  return given;
}

async function post(path, body, signal) {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (answer.ok) return answer;
  let said = answer.status + " " + answer.statusText;
  try { said = (await answer.json()).error.message; } catch { /* no JSON: the status says it */ }
  throw new Error(said);
}

function addTurn(role, text) {
  const turn = document.createElement("div");
  turn.className = "turn " + role;
  turn.textContent = text;
  get("chat").append(turn);
  return turn;
}

async function chat(prompt, signal) {
  const asked = [...messages, { role: "user", content: prompt }];
  const question = addTurn("user", prompt), turn = addTurn("assistant", "");
  const body = { model: get("first").value, messages: asked, stream: true, temperature: Number(get("temperature").value) };
  const answer = await post("/v1/chat/completions", body, signal).catch((refused) => {
    question.remove();
    turn.remove();
    get("prompt").value = prompt;
    throw refused;
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "", said = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (held + value).split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.slice("data: ".length);
      if (data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      said += event.choices[0]?.delta.content ?? "";
      turn.textContent = said;
    }
  }
  messages = [...asked, { role: "assistant", content: said }];
}

function name(side, model) { get(side + "-name").textContent = model ?? side; }

async function compare(prompt, signal) {
  get("sides").hidden = false;
  get("votes").hidden = true;
  for (const side of ["left", "right"]) { name(side); get(side).textContent = "…"; }
  const body = {
    prompt, first: get("first").value, second: second.value, blind: blind.checked,
    temperature: Number(get("temperature").value),
  };
  const answer = await (await post("/page/compare", body, signal)).json();
  for (const side of ["left", "right"]) {
    get(side).textContent = answer.answers[side];
    name(side, answer.models?.[side]);
  }
  comparison = answer.comparison;
  get("votes").hidden = comparison === null;
}

async function send() {
  const prompt = get("prompt").value;
  if (!prompt.trim() || running) return;
  running = new AbortController();
  get("send").disabled = true;
  get("stop").disabled = false;
  say("");
  try {
    if (second && second.value) await compare(prompt, running.signal);
    else { get("prompt").value = ""; await chat(prompt, running.signal); }
  } catch (error) {
    say(error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    running = null;
    get("send").disabled = false;
    get("stop").disabled = true;
  }
}

function show(summary) {
  get("summary").replaceChildren(...summary.map((each) => {
    const line = document.createElement("p");
    const percent = (share) => Math.round(100 * share) + " %";
    line.textContent = `${each.model} against ${each.against}: wins ${percent(each.win_rate)} of ${each.votes} votes ` +
      `(95 % interval ${percent(each.interval[0])} to ${percent(each.interval[1])}; ${each.tied} ties count half)`;
    return line;
  }));
}

async function vote(choice) {
  if (comparison === null) return;
  const number = comparison;
  comparison = null;
  get("votes").hidden = true;
  try {
    const answer = await (await post("/page/vote", { comparison: number, choice })).json();
    for (const side of ["left", "right"]) name(side, answer.models[side]);
    show(answer.summary);
  } catch (error) { say(error.message); }
}

document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
get("send").addEventListener("click", send);
get("stop").addEventListener("click", () => running?.abort());
get("again").addEventListener("click", () => { messages = []; get("chat").replaceChildren(); say(""); });
get("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
second?.addEventListener("change", () => {
  get("chat").hidden = second.value !== "";
  get("sides").hidden = second.value === "";
  get("votes").hidden = true;
});
