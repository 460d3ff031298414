// Talking to the server: JSON, streams of events, the token; and a request as text for a terminal or a program.

const TOKEN_KEY = "smalllm-token";
let asking = null; // one question for the token at a time, whoever needs it

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `the server answered ${status}`);
    [this.status, this.param] = [status, error.param || null];
  }
}

const addressOf = (path) => new URL(path, document.baseURI).href;

// The answer to a request that went well. A missing or wrong token is asked for, and the request repeated.
async function answerOf(path, body, signal) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const headers = { ...(body ? { "Content-Type": "application/json" } : {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let answer;
    try {
      answer = await fetch(addressOf(path), { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { message: "The server does not answer. Is it still running?" });
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (sessionStorage.getItem(TOKEN_KEY) === token) await askToken(Boolean(token));
      continue;
    }
    throw new ApiError(answer.status, await errorOf(answer));
  }
}

async function errorOf(answer) {
  const text = await answer.text();
  try {
    const { error, detail } = JSON.parse(text);
    return error && typeof error === "object" ? error : { message: String(error || detail || text) };
  } catch {
    return { message: text.slice(0, 500) || `The server answered ${answer.status}.` };
  }
}

function askToken(wasWrong) {
  asking ??= new Promise((resolve) => {
    const [dialog, field] = [document.getElementById("ask"), document.getElementById("token")];
    document.getElementById("ask-error").hidden = !wasWrong;
    field.value = "";
    document.getElementById("ask-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN_KEY, field.value.trim());
      field.value = "";
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.onclose = () => asking && dialog.showModal(); // nothing works without it
    dialog.showModal();
  });
  return asking;
}

export async function ask(path, body = null, signal = undefined) {
  return (await answerOf(path, body, signal)).json();
}

// The events of a stream, parsed, until the server says that it is done.
export async function* events(path, body, signal) {
  const reader = (await answerOf(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (held + (value || "")).split(/\r\n|\n/);
    held = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.code || 500, event.error);
      yield event;
    }
    if (done) throw new ApiError(0, { message: "The connection ended before the text did." });
  }
}

// What the openai package knows by itself; the rest goes into its extra_body.
const OPENAI = "model prompt max_tokens temperature top_p n stream stop seed presence_penalty frequency_penalty logit_bias logprobs".split(" ");

export function asCurl(body) {
  const quoted = JSON.stringify(body, null, 1).replaceAll(/\n */g, " ").replaceAll("'", `'\\''`);
  const token = sessionStorage.getItem(TOKEN_KEY) ? ` -H "Authorization: Bearer $SMALLLM_TOKEN"` : "";
  return `curl -N ${addressOf("v1/completions")} -H 'Content-Type: application/json'${token} -d '${quoted}'\n`;
}

export function asPython(body) {
  const key = sessionStorage.getItem(TOKEN_KEY) ? `os.environ["SMALLLM_TOKEN"]` : `"none"`;
  const known = Object.entries(body).filter(([name]) => OPENAI.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.includes(name)));
  const lines = known.map(([name, value]) => `    ${name}=${python(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra)},`);
  return `${key === `"none"` ? "" : "import os\n\n"}from openai import OpenAI

client = OpenAI(base_url="${addressOf("v1")}", api_key=${key})
answer = client.completions.create(
${lines.join("\n")}
)
for chunk in answer:
    for choice in chunk.choices:
        print(choice.text, end="", flush=True)
`;
}

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${python(name)}: ${python(one)}`).join(", ")}}`;
  return JSON.stringify(value); // numbers and texts are written alike in both languages
}

// Into the clipboard; where the browser refuses it (a page not from this machine over http), by the old way.
export async function copy(text) {
  const field = document.getElementById("clipboard");
  field.value = text;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    field.hidden = false;
    field.select();
    const isDone = document.execCommand("copy");
    field.hidden = isDone;
    field.onblur = () => (field.hidden = true);
    return isDone;
  }
  return true;
}
