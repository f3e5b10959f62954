// The page: reads the photograph, and shows what the worker paints.
const find = (id) => document.getElementById(id);
const canvas = find("picture"), worker = new Worker("worker.js", { type: "module" });
const LEAST = 32; // pixels, of a side: the networks' smallest picture
let photo = null, style = null, turn = 0;

function say(text, state) {
  find("status").textContent = text;
  find("status").dataset.state = state;
}

function show(image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The photograph with its long edge at most the chosen size.
function pixels() {
  const scale = Math.min(1, Number(find("size").value) / Math.max(photo.width, photo.height));
  const width = Math.max(LEAST, Math.round(photo.width * scale)), height = Math.max(LEAST, Math.round(photo.height * scale));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function paint() {
  if (!photo) return;
  const image = pixels();
  if (!style) return show(image);
  find("save").hidden = true;
  say(`Painting ${image.width} x ${image.height} pixels ...`, "running");
  worker.postMessage({ turn: ++turn, style, image });
}

worker.onmessage = async ({ data }) => {
  if (data.turn !== turn) return; // an earlier choice
  if (data.error) return say(data.error, "failed");
  show(data.image);
  say(`Painted in ${(data.milliseconds / 1000).toFixed(1)} seconds.`, "done");
  const blob = await new Promise((take) => canvas.toBlob(take, "image/png"));
  URL.revokeObjectURL(find("save").href);
  Object.assign(find("save"), { href: URL.createObjectURL(blob), download: `${style}.png`, hidden: false });
};

find("file").onchange = async ({ target }) => {
  if (!target.files.length) return;
  try {
    photo = await createImageBitmap(target.files[0]);
  } catch {
    return say("This file is not a picture that the browser can read.", "failed");
  }
  say("Choose a style.", "ready");
  paint();
};
find("size").onchange = paint;

for (const { name, title } of await (await fetch("styles.json")).json()) {
  const button = document.createElement("button");
  const picture = Object.assign(document.createElement("img"), { src: `styles/${name}.jpg`, alt: "", loading: "lazy" });
  button.append(picture, title);
  button.dataset.style = name;
  button.setAttribute("aria-pressed", "false");
  button.onclick = () => {
    style = name;
    for (const each of find("styles").children) each.setAttribute("aria-pressed", String(each === button));
    paint();
  };
  find("styles").append(button);
}
