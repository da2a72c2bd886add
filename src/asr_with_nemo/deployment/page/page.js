// The page: microphone or file in, pictures, text and a table out.
import { Pictures } from "/page/pictures.js";

const $ = (id) => document.getElementById(id);
const pictures = new Pictures($("waveform"), $("spectrogram"));
const player = $("player");
const said = []; // {from, to, source, text, sure}
let model = "";
let recording = null; // while the microphone is open
let shown = []; // the words on the screen, with their elements
let unfinished = null; // the paragraph of the utterance that is being said

// --- What the server says ---------------------------------------------------------------------------------------------

const key = () => sessionStorage.getItem("key") ?? "";

function headers() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

async function findModel() {
  const answer = await fetch("/v1/models", { headers: headers() });
  $("key-form").hidden = answer.status !== 401;
  if (answer.status === 401) throw new Error(key() ? "This API key is wrong." : "This server asks for an API key.");
  model = (await answer.json()).data[0].id;
  $("model").textContent = model;
}

function tell(message, wrong = false) {
  $("status").textContent = message;
  $("status").classList.toggle("wrong", wrong);
}

async function trying(work) {
  try {
    await work();
  } catch (error) {
    tell(error.message, true);
  }
}

// --- Text -------------------------------------------------------------------------------------------------------------

function wordButton({ word, start, end, confidence }) {
  const button = document.createElement("button");
  button.textContent = word;
  button.className = `word ${confidence >= 0.9 ? "high" : confidence >= 0.5 ? "middle" : "low"}`;
  button.title = `${Math.round(100 * confidence)}% sure, at ${start.toFixed(2)} s`;
  button.addEventListener("click", () => { player.currentTime = start; player.play(); });
  return { start, end, button };
}

function paragraph(words) {
  const line = document.createElement("p");
  for (const word of words.map(wordButton)) {
    line.append(word.button, " ");
    shown.push(word);
  }
  return line;
}

function clear(rate) {
  shown = [];
  unfinished = null;
  $("text").replaceChildren();
  $("legend").hidden = true;
  player.hidden = true;
  player.pause();
  if (player.src) URL.revokeObjectURL(player.src);
  player.removeAttribute("src");
  $("playhead").hidden = true;
  pictures.clear(rate);
}

/** A text that may still change: its last words are grey. */
function showPartial({ words, stable }) {
  const line = document.createElement("p");
  const spelled = (some) => some.map(({ word }) => word).join(" ");
  const grey = document.createElement("span");
  grey.className = "unsure";
  grey.textContent = spelled(words.slice(stable));
  line.append(`${spelled(words.slice(0, stable))} `, grey);
  line.setAttribute("aria-hidden", "true"); // a screen reader waits for what stays
  unfinished?.remove();
  unfinished = line;
  $("text").append(line);
}

function showFinal(words, source) {
  unfinished?.remove();
  unfinished = null;
  if (!words.length) return;
  $("text").append(paragraph(words));
  $("legend").hidden = false;
  const sure = words.reduce((sum, { confidence }) => sum + confidence, 0) / words.length;
  note({ from: words[0].start, to: words.at(-1).end, source, text: words.map(({ word }) => word).join(" "), sure });
}

// --- Table ------------------------------------------------------------------------------------------------------------

function note(row) {
  if (!said.length) $("said").replaceChildren();
  said.push(row);
  const line = document.createElement("tr");
  for (const value of [row.from.toFixed(2), row.to.toFixed(2), row.source, row.text, `${Math.round(100 * row.sure)}%`]) {
    line.insertCell().textContent = value;
  }
  $("said").append(line);
  $("csv").disabled = false;
}

function csv() {
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = said.map(({ from, to, source, text, sure }) =>
    [from.toFixed(3), to.toFixed(3), source, text, sure.toFixed(3)].map(quoted).join(","));
  return ["from,to,source,text,confidence", ...lines, ""].join("\r\n");
}

function download(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- Microphone -------------------------------------------------------------------------------------------------------

async function record() {
  if (!navigator.mediaDevices) throw new Error("This browser gives the microphone only to pages on https or 127.0.0.1.");
  tell("Asking for the microphone …");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  }).catch((error) => { throw new Error(`There is no microphone to use (${error.message}).`); });
  const context = new AudioContext();
  await context.audioWorklet.addModule("/page/worklet.js");
  const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
  const source = context.createMediaStreamSource(stream);
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/listen`);
  recording = { stream, context, socket, name: `recording ${new Date().toLocaleTimeString()}`, ended: false };
  const mine = recording;
  clear(context.sampleRate);
  buttonSays(true);

  const waiting = [];
  tap.port.onmessage = ({ data }) => {
    pictures.add(data);
    const pcm = Int16Array.from(data, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
    if (socket.readyState === WebSocket.OPEN && mine.ready) socket.send(pcm);
    else waiting.push(pcm);
  };
  socket.onopen = () => socket.send(JSON.stringify({ type: "start", sample_rate: context.sampleRate, api_key: key() }));
  socket.onmessage = ({ data }) => {
    const heard = JSON.parse(data);
    if (heard.type === "ready") {
      mine.ready = true;
      for (const pcm of waiting.splice(0)) socket.send(pcm);
      if (mine.ended) socket.send(JSON.stringify({ type: "stop" }));
      else tell("Listening …");
    } else if (heard.type === "partial") showPartial(heard);
    else if (heard.type === "final") showFinal(heard.words, mine.name);
    else if (heard.type === "done") tell("Done.");
    else if (heard.type === "error") tell(heard.message, true);
  };
  socket.onclose = ({ wasClean }) => {
    if (!wasClean) tell("The server went away.", true);
    if (recording === mine) stop();
  };
  const draw = () => {
    if (recording !== mine) return;
    pictures.scroll();
    requestAnimationFrame(draw);
  };
  draw();
  source.connect(tap); // last: what is said from now on is kept until the server is ready
}

function stop() {
  const { stream, context, socket, ready } = recording;
  recording.ended = true;
  recording = null;
  buttonSays(false);
  for (const track of stream.getTracks()) track.stop();
  context.close();
  if (socket.readyState === WebSocket.OPEN && ready) socket.send(JSON.stringify({ type: "stop" }));
  const samples = pictures.samples();
  if (!samples.length) return;
  pictures.redraw();
  play(new Blob([wav(samples, pictures.rate)], { type: "audio/wav" }));
}

function buttonSays(recording) {
  $("record").setAttribute("aria-pressed", recording);
  $("record-label").textContent = recording ? "Stop" : "Record";
}

/** A WAV file of mono float samples, 16 bits each. */
function wav(samples, rate) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((letter, n) => bytes.setUint8(at + n, letter.charCodeAt(0)));
  word(0, "RIFF"); bytes.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, rate, true); bytes.setUint32(28, 2 * rate, true); bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true); word(36, "data"); bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, n) => bytes.setInt16(44 + 2 * n, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return bytes.buffer;
}

// --- Files ------------------------------------------------------------------------------------------------------------

async function open(file) {
  if (recording) stop();
  clear(16000);
  tell(`Transcribing ${file.name} …`);
  const form = new FormData();
  form.append("file", file);
  form.append("model", model);
  form.append("response_format", "verbose_json");
  const asked = fetch("/v1/audio/transcriptions", { method: "POST", body: form, headers: headers() });
  try { // not every file that the server reads can be played by the browser
    const context = new OfflineAudioContext(1, 1, 16000);
    const { sampleRate, ...sound } = await context.decodeAudioData(await file.arrayBuffer()).then((buffer) => ({
      sampleRate: buffer.sampleRate, samples: buffer.getChannelData(0),
    }));
    pictures.whole(sound.samples, sampleRate);
    play(file);
  } catch { /* no picture, then */ }
  const answer = await asked;
  const heard = await answer.json();
  if (!answer.ok) throw new Error(heard.error.message);
  for (const segment of heard.segments) {
    showFinal(heard.words.filter(({ start, end }) => start >= segment.start && end <= segment.end), file.name);
  }
  tell(heard.text ? `${file.name}: ${heard.duration.toFixed(1)} s.` : `${file.name}: nothing was heard.`);
}

// --- Playback ---------------------------------------------------------------------------------------------------------

function play(blob) {
  player.src = URL.createObjectURL(blob);
  player.hidden = false;
}

function follow() {
  if (!player.src) return;
  const now = player.currentTime;
  for (const { start, end, button } of shown) button.classList.toggle("lit", start - 0.05 <= now && now < end + 0.1);
  $("playhead").hidden = false;
  $("playhead").style.transform = `translateX(${(now / pictures.seconds) * $("picture").clientWidth}px)`;
  if (!player.paused) requestAnimationFrame(follow);
}

// --- What the user does -----------------------------------------------------------------------------------------------

$("record").addEventListener("click", () => trying(async () => { if (recording) stop(); else await record(); }));
$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) trying(() => open(file));
  target.value = "";
});
$("csv").addEventListener("click", () => download("said.csv", csv(), "text/csv"));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  trying(async () => { await findModel(); tell(""); });
});
player.addEventListener("play", follow);
player.addEventListener("seeked", follow);
$("picture").addEventListener("click", ({ offsetX }) => {
  if (player.src) player.currentTime = (offsetX / $("picture").clientWidth) * pictures.seconds;
});
addEventListener("resize", () => { if (!recording && pictures.length) pictures.redraw(); });

let dragged = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); dragged++; $("drop").hidden = false; });
addEventListener("dragleave", () => { if (--dragged <= 0) $("drop").hidden = true; });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) trying(() => open(file));
});

addEventListener("keydown", (event) => {
  if (event.target.closest("input, button, audio, a") && event.key !== "r") return;
  if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "r" || event.key === "R") $("record").click();
  else if (event.key === " " && player.src) {
    event.preventDefault();
    if (player.paused) player.play();
    else player.pause();
  }
});

trying(findModel);
