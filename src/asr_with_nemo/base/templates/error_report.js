(() => {
  const all = JSON.parse(document.getElementById("data").textContent), page = 20;
  const by = id => document.getElementById(id), list = by("list"), form = document.querySelector("form");
  const names = { S: "substitution", D: "deletion", I: "insertion" };
  let rows = [], first = 0, pair = null, won = null;
  const kindOf = ([said, heard]) => said === heard ? "" : !heard ? "D" : !said ? "I" : "S";
  const errors = one => one.counts[0] + one.counts[1] + one.counts[2];
  const bare = word => word.toLowerCase().replace(/^[\p{P}\p{S}]+|[\p{P}\p{S}]+$/gu, "");  // hello, → hello
  for (const one of all) {
    const text = side => one.pairs.map(step => step[side]).filter(Boolean).join(" ");
    one.found = `${text(0)}\n${text(1)}\n${text(2)}\n${one.file}\n${one.speaker}`.toLowerCase();
    one.differs = text(1) !== text(2);
    one.lead = one.other === undefined ? 0 : one.other - errors(one);
    one.sure = one.confidence.length ? Math.min(...one.confidence) : 2;
    one.rate = errors(one) / Math.max(1, one.words);
    one.percent = 100 * one.rate;
    one.said = ` ${one.pairs.flat().filter(Boolean).map(bare).join(" ")} `;
  }
  const value = (id, otherwise = "") => by(id) ? by(id).value : otherwise;
  const limit = () => Number(value("unsure", "0"));
  const element = (name, text, kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const steps = one => {
    const made = element("ol", "", "steps");
    made.dir = "auto";
    let place = 0;
    for (const step of one.pairs) {
      const [said, heard, other] = step, kind = said || heard ? kindOf(step) : "";
      const item = element("li", "", kind);
      const sure = heard ? one.confidence[place++] : undefined;
      item.append(element("span", said || "–", "said"), element("span", heard || "–", "heard"));
      if (other !== undefined) {
        const its = said || other ? kindOf([said, other]) : "";
        item.append(element("span", other || "–", `other ${its && "wrong"}`));
        item.append(element("b", heard === other ? kind : `${kind || "✓"} ${its || "✓"}`));
        if (heard !== other) item.classList.add("apart");
        if (its) item.append(element("span", `the other: ${names[its]}`, "hidden"));
      } else item.append(element("b", kind));
      if (kind) item.append(element("span", names[kind], "hidden"));
      if (sure !== undefined) {
        item.title = `confidence ${sure}`;
        if (sure < limit()) {
          item.classList.add("unsure");
          item.append(element("span", `low confidence, ${sure}`, "hidden"));
        }
      }
      made.append(item);
    }
    if (one.other !== undefined) made.classList.add("three");
    if (!one.pairs.length) made.append(element("li", "(nothing said, nothing heard)"));
    return made;
  };
  const shown = one => {
    const item = element("li", "");
    item.tabIndex = -1;
    const [wrong, gone, added] = one.counts, rate = one.words ? `${(100 * one.rate).toFixed(0)}% of` : "no words;";
    const facts = [one.speaker, one.seconds === null ? "" : `${one.seconds} s`];
    if (one.level !== null) facts.push(`${one.level} dBFS, SNR ${one.snr} dB`);
    facts.push(`${errors(one)} ${errors(one) === 1 ? "error" : "errors"}, ${rate} ${one.words} words: ${wrong} S, ${gone} D, ${added} I`);
    if (one.other !== undefined) facts.push(`the other ${one.other}`);
    const head = element("p", `${one.number}. `, "faint");
    head.append(element("code", one.file), ` ${facts.filter(Boolean).join(" · ")}`);
    const player = element("audio", "");
    Object.assign(player, { controls: true, preload: "none", src: one.sound });
    player.setAttribute("aria-label", `play ${one.file}`);
    player.addEventListener("error", () => player.after(element("p", `can't be played: ${one.file}`, "faint")), true);
    const sight = element("button", "spectrogram", "sight");
    sight.type = "button";
    sight.setAttribute("aria-expanded", "false");
    sight.addEventListener("click", () => look(one, player, sight));
    item.append(head, player, sight, steps(one));
    return item;
  };

  // Spectrograms: the sound is decoded to 16 kHz, and each column is the power of a window of 32 ms, from 0 to 8 kHz.
  const rate = 16000, size = 512, height = size / 2;
  const transform = (real, imaginary) => {  // a Fourier transform in place, of a power of two
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) [real[i], real[j]] = [real[j], real[i]];
    }
    for (let length = 2; length <= size; length <<= 1) {
      const turn = -2 * Math.PI / length, half = length / 2;
      for (let k = 0; k < half; k++) {
        const cos = Math.cos(turn * k), sin = Math.sin(turn * k);
        for (let i = k; i < size; i += length) {
          const j = i + half, x = real[j] * cos - imaginary[j] * sin, y = real[j] * sin + imaginary[j] * cos;
          real[j] = real[i] - x; imaginary[j] = imaginary[i] - y;
          real[i] += x; imaginary[i] += y;
        }
      }
    }
  };
  const sound = async address => {
    const [place, part] = address.startsWith("data:") ? [address] : address.split("#t=");
    const context = new OfflineAudioContext(1, 1, rate);
    const samples = await fetch(place).then(got => got.ok ? got.arrayBuffer() : Promise.reject(got.status))
      .then(bytes => context.decodeAudioData(bytes)).then(made => made.getChannelData(0));
    const [from, to] = (part || "").split(",").map(Number);
    return part ? samples.subarray(from * rate, to ? to * rate : undefined) : samples;
  };
  const draw = (canvas, samples) => {
    const hop = Math.max(160, Math.ceil(samples.length / 1600)), columns = Math.ceil(samples.length / hop);
    Object.assign(canvas, { width: Math.max(1, columns), height });
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, height);
    const style = getComputedStyle(document.body), colour = text => text.match(/\d+/g).slice(0, 3).map(Number);
    const low = colour(style.backgroundColor), high = colour(style.color);
    const real = new Float64Array(size), imaginary = new Float64Array(size), power = new Float32Array(columns * height);
    let loudest = -Infinity;
    for (let column = 0; column < columns; column++) {
      const start = column * hop - size / 2;
      for (let i = 0; i < size; i++) {
        real[i] = (samples[start + i] || 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / size));
        imaginary[i] = 0;
      }
      transform(real, imaginary);
      for (let i = 0; i < height; i++) {
        const level = 10 * Math.log10(real[i] ** 2 + imaginary[i] ** 2 + 1e-10);
        power[column * height + i] = level;
        if (level > loudest) loudest = level;
      }
    }
    for (let column = 0; column < columns; column++) for (let i = 0; i < height; i++) {
      const share = Math.min(1, Math.max(0, 1 + (power[column * height + i] - loudest) / 70));  // 70 dB
      const at = 4 * ((height - 1 - i) * canvas.width + column);
      for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + share * (high[c] - low[c]);
      image.data[at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return samples.length / rate;
  };
  const look = async (one, player, button) => {
    const is_open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!is_open));
    if (is_open) return button.nextElementSibling.remove();
    const frame = element("div", "", "frame"), canvas = element("canvas", ""), now = element("i", "");
    button.after(frame);
    try {
      const seconds = draw(canvas, await sound(one.sound));
      const begin = Number((/#t=([\d.]+)/.exec(one.sound) || [0, 0])[1]);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `spectrogram of ${one.file}: ${seconds.toFixed(2)} s, 0 to 8 kHz`);
      canvas.title = "choose a place to play from";
      canvas.addEventListener("click", event => {
        player.currentTime = begin + seconds * event.offsetX / canvas.clientWidth;
        player.play().catch(() => {});
      });
      const move = () => {
        if (!frame.isConnected) return;
        now.style.left = `${100 * Math.min(1, Math.max(0, (player.currentTime - begin) / seconds))}%`;
        if (!player.paused) requestAnimationFrame(move);
      };
      for (const name of ["play", "seeked"]) player.addEventListener(name, move);
      frame.append(canvas, now, element("p", `0 to ${seconds.toFixed(2)} s, 0 to 8 kHz`, "faint"));
    } catch {
      const why = location.protocol === "file:" && !one.sound.startsWith("data:")
        ? "its sound isn't in this page, and a page that is opened as a file can't read another file: serve both, with " +
          "python -m http.server" : "its sound can't be read";
      frame.append(element("p", `No spectrogram of ${one.file}: ${why}.`, "faint"));
    }
  };

  const show = () => {
    list.replaceChildren(...rows.slice(first, first + page).map(shown));
    const last = Math.min(first + page, rows.length);
    by("said").textContent = rows.length ? `${first + 1} to ${last} of ${rows.length}` : "none";
    by("back").disabled = first === 0;
    by("on").disabled = last === rows.length;
  };
  const kinds = {
    "": () => true, wrong: one => errors(one) > 0, correct: one => errors(one) === 0,
    S: one => one.counts[0], D: one => one.counts[1], I: one => one.counts[2],
    unsure: one => one.sure < limit(),
    differ: one => one.differs, better: one => one.lead > 0, worse: one => one.lead < 0,
  };
  const orders = {
    errors: (a, b) => errors(b) - errors(a), rate: (a, b) => b.rate - a.rate, confidence: (a, b) => a.sure - b.sure,
    long: (a, b) => b.seconds - a.seconds, short: (a, b) => a.seconds - b.seconds, number: (a, b) => a.number - b.number,
    difference: (a, b) => Math.abs(b.lead) - Math.abs(a.lead) || b.differs - a.differs,
  };
  const sized = key => (a, b) => (a[key] ?? Infinity) - (b[key] ?? Infinity);
  const loudest = key => (a, b) => (b[key] ?? -Infinity) - (a[key] ?? -Infinity);
  Object.assign(orders, { quiet: sized("level"), loud: loudest("level"), noisy: sized("snr"), clear: loudest("snr") });
  const ranges = () => ["percent", "seconds", "level", "snr"].map(key => [key, value(`${key}-from`), value(`${key}-to`)])
    .filter(([, from, to]) => from !== "" || to !== "")
    .map(([key, from, to]) => [key, from === "" ? -Infinity : Number(from), to === "" ? Infinity : Number(to)]);
  const words = id => value(id).toLowerCase().split(/[\s,]+/).map(bare).filter(Boolean).map(word => ` ${word} `);
  const choose = () => {
    const limits = ranges(), having = words("with"), lacking = words("without");
    const wanted = value("text").toLowerCase(), speaker = value("speaker"), fits = kinds[value("kind")];
    rows = all.filter(one => fits(one) && (!speaker || one.speaker === speaker) && one.found.includes(wanted) &&
      limits.every(([key, from, to]) => one[key] !== null && one[key] >= from && one[key] <= to) &&
      having.every(word => one.said.includes(word)) && !lacking.some(word => one.said.includes(word)) &&
      (!pair || one.pairs.some(step => step[0] === pair[0] && step[1] === pair[1])) &&
      (won === null || one.pairs.some(([said, heard, other]) => said === won && heard !== other &&
        (heard === said || other === said))));
    const order = orders[value("order")];
    rows.sort((a, b) => order(a, b) || a.number - b.number);
    by("pair").hidden = !pair && won === null;
    by("pair").textContent = pair ? `✕ ${pair[0] || "(nothing)"} → ${pair[1] || "(nothing)"}` : `✕ ${won}`;
    first = 0;
    show();
  };
  const goTo = () => by("utterances").scrollIntoView();
  form.addEventListener("input", choose);
  form.addEventListener("submit", event => event.preventDefault());
  by("back").addEventListener("click", () => { first = Math.max(0, first - page); show(); });
  by("on").addEventListener("click", () => { first += page; show(); goTo(); });
  by("pair").addEventListener("click", () => { pair = won = null; choose(); });
  document.querySelectorAll("[data-heard], [data-won]").forEach(one => one.addEventListener("click", () => {
    pair = one.dataset.heard === undefined ? null : [one.dataset.said, one.dataset.heard];
    won = one.dataset.won === undefined ? null : one.dataset.won;
    if (pair && value("kind") === "differ") by("kind").value = "";
    choose();
    goTo();
  }));
  document.querySelectorAll("[data-speaker]").forEach(one => one.addEventListener("click", () => {
    by("speaker").value = one.dataset.speaker;
    choose();
    goTo();
  }));
  document.addEventListener("play", event => document.querySelectorAll("audio").forEach(
    one => one !== event.target && one.pause()), true);
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    const here = document.activeElement.closest("#list > li"), items = [...list.children];
    if (event.key === "/") by("text").focus();
    else if (event.key === "j") (here ? here.nextElementSibling : items[0])?.focus();
    else if (event.key === "k") (here ? here.previousElementSibling : items.at(-1))?.focus();
    else if (event.key === "p" && here) {
      const player = here.querySelector("audio");
      player.paused ? player.play().catch(() => {}) : player.pause();
    } else if (event.key === "s" && here) here.querySelector(".sight").click();
    else return;
    event.preventDefault();
  });
  choose();
})();
