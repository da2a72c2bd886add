// One letter through windows of several lengths; a recording in 8 to 128 mel bands, with the sound that they have kept.
const colors = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
const color = (level) => {
    const place = (level / 255) * (colors.length - 1), low = Math.min(Math.floor(place), colors.length - 2);
    return [0, 1, 2].map((k) => colors[low][k] + (place - low) * (colors[low + 1][k] - colors[low][k]));
};
// The picture's own pixels, the lowest row at the bottom; the style stretches it.
const draw = (canvas, { rows, columns, levels }) => {
    const bytes = Uint8Array.from(atob(levels), (letter) => letter.charCodeAt(0));
    canvas.width = columns;
    canvas.height = rows;
    const image = new ImageData(columns, rows);
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
        const [red, green, blue] = color(bytes[row * columns + column]);
        image.data.set([red, green, blue, 255], 4 * ((rows - 1 - row) * columns + column));
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
};
const stretched = (height) => `width: 100%; height: ${height}rem; display: block; image-rendering: pixelated; border: 1px solid var(--line)`;
const scale = (texts) => element("div", { style: "display: flex; justify-content: space-between; font-size: 0.85em" },
    ...texts.map((text) => element("span", {}, text)));
const axis = (texts, canvas) => element("div", { style: "display: grid; grid-template-columns: 4.5rem 1fr; column-gap: 0.4rem" },
    element("div", { style: "display: flex; flex-direction: column; justify-content: space-between; text-align: right; font-size: 0.85em" },
        ...texts.map((text) => element("span", {}, text))), canvas);

// 1. The window.
const lengths = Object.keys(data.windows).map(Number).sort((a, b) => a - b);
const seen = element("canvas", { style: stretched(13), role: "img" });
const says = element("p", { class: "window-says", "aria-live": "polite" });
const showWindow = (index) => {
    const ms = lengths[index];
    draw(seen, data.windows[ms]);
    seen.setAttribute("aria-label", `Spectrogram of ${data.letter} through a window of ${ms} ms`);
    const hertz = Math.round(2000 / ms);
    says.textContent = `Two tones need to be about ${hertz} Hz apart to show as two stripes; two clicks about ${ms / 2} ms to show as two lines.`;
};
const wanted = Math.max(0, lengths.indexOf(20));
const windowSlider = slider("window", 0, lengths.length - 1, 1, wanted, showWindow, (index) => `${lengths[index]} ms`);
showWindow(wanted);

// 2. The mel bands.
const counts = Object.keys(data.bands).map(Number).sort((a, b) => a - b);
const bands = element("canvas", { style: stretched(11), role: "img" });
let count = counts.includes(64) ? 64 : counts[0];
let player = null;
const play = (sound) => () => {
    if (player) player.pause();
    player = new Audio(sound());
    player.play();
};
const hasSound = Boolean(data.original);
const keptButton = element("button", { type: "button", class: "play-kept", onclick: play(() => data.sounds[count]) });
const showBands = (index) => {
    count = counts[index];
    draw(bands, data.bands[count]);
    bands.setAttribute("aria-label", `Mel spectrogram of ${count} bands`);
    keptButton.textContent = `▶ from ${count} bands`;
};
const bandSlider = slider("mel bands", 0, counts.length - 1, 1, counts.indexOf(count), showBands, (index) => String(counts[index]));
showBands(counts.indexOf(count));
const marks = element("div", { style: "position: relative; height: 1.4em; margin-left: 4.9rem" },
    ...data.marks.map(([start, end, name]) => element("span", { style: `position: absolute; left: ${50 * (start + end)}%; transform: translateX(-50%)` }, name)));

root.append(
    element("p", {}, element("strong", {}, `${data.letter} through a window`)),
    element("div", { class: "row" }, windowSlider.node),
    axis([`${data.top} Hz`, `${data.top / 2} Hz`, "0 Hz"], seen),
    element("div", { style: "margin-left: 4.9rem" }, scale(["0 s", `${data.seconds} s`])),
    says,
    element("p", {}, element("strong", {}, "The recording in mel bands")),
    element("div", { class: "row" }, bandSlider.node,
        ...(hasSound ? [keptButton, element("button", { type: "button", class: "play-original", onclick: play(() => data.original) }, "▶ the recording")]
            : [element("span", { class: "no-sound" }, "Run the notebook to hear what the bands have kept: this copy holds no sound.")])),
    marks,
    axis(["8 kHz", "mel", "0 Hz"], bands),
    element("div", { style: "margin-left: 4.9rem" }, scale(["0 s", `${data.duration} s`])),
);
