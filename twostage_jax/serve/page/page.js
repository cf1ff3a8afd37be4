// The script of both pages. Names of classes and files become text nodes, never HTML.
"use strict";

const SHOWN = 5; // bars of one answer, before "all classes"
const KEPT = 50; // answers on the page
const SMALL = 64; // pixels; the pixels of smaller pictures are shown as they are
const $ = (id) => document.getElementById(id);

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

async function request(path, body, type) {
  const options = body === undefined ? {} : { method: "POST", body, headers: { "content-type": type } };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the program has stopped: start twostage serve again");
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text };
  }
  if (response.ok && !answer.error) return answer;
  const error = new Error(answer.error || `status ${response.status}`);
  error.state = answer.state;
  throw error;
}

const postImage = (path, blob) => request(path, blob, "application/octet-stream");
const postJson = (path, value) => request(path, JSON.stringify(value), "application/json");

function percent(share) {
  if (share < 0.0005) return "< 0.1 %";
  if (share > 0.9995) return "> 99.9 %"; // never certain
  return `${(100 * share).toFixed(share < 0.0995 || share > 0.985 ? 1 : 0)} %`;
}

// Try

function tryPage(page) {
  const { classes, image_shape: shape } = page.model;
  const limits = page.limits;
  const megabytes = Math.floor(limits.bytes / 2 ** 20);
  let waiting = Promise.resolve(); // images are answered one after another

  $("try").hidden = false;
  $("draw").hidden = shape[2] > 1;
  $("drawing").textContent = page.model.drawing;
  $("limits").textContent =
    `Nothing leaves this machine, and nothing is stored. At most ${limits.files} images at a time, ` +
    `${megabytes} MB and ${limits.megapixels} megapixels each.`;

  function newCard(source) {
    $("empty").hidden = true;
    const card = $("card").content.firstElementChild.cloneNode(true);
    card.querySelector(".source").textContent = source;
    card.querySelector(".class").textContent = "…";
    hideParts(card);
    $("answers").prepend(card);
    while ($("answers").children.length > KEPT) $("answers").lastElementChild.remove();
    return card;
  }

  function hideParts(card) {
    for (const part of [".preview", ".seen", ".bars", ".all", ".near"]) card.querySelector(part).hidden = true;
  }

  function fail(card, error) {
    card.classList.add("failed");
    hideParts(card);
    card.querySelector(".class").textContent = "";
    card.querySelector(".verdict").textContent = `Not classified: ${error.message}.`;
  }

  function showAnswer(card, answer) {
    const best = answer.probabilities.map((share, k) => [share, k]).sort((a, b) => b[0] - a[0]);
    const name = classes[answer.class];
    card.classList.remove("failed");
    card.classList.toggle("plain", !answer.preview);
    card.classList.toggle("rejected", answer.rejected === true);
    card.querySelector(".class").textContent = answer.rejected ? "None of the classes" : name;
    card.querySelector(".verdict").textContent = verdict(answer, name, best[0][0]);
    const preview = card.querySelector(".preview");
    preview.hidden = !answer.preview;
    if (answer.preview) {
      preview.src = answer.preview;
      preview.onload = () => preview.classList.toggle("pixels", preview.naturalWidth <= SMALL);
    }
    const seen = card.querySelector(".seen");
    seen.hidden = !answer.seen;
    if (answer.seen) seen.firstElementChild.src = answer.seen;
    seen.lastElementChild.textContent = `as the model sees it, ${shape[1]}×${shape[0]}`;
    const bars = card.querySelector(".bars");
    const all = card.querySelector(".all");
    const show = (count) => bars.replaceChildren(...best.slice(0, count).map(([share, k]) => bar(classes[k], share)));
    bars.hidden = false;
    show(SHOWN);
    all.hidden = best.length <= SHOWN;
    all.textContent = `All ${best.length} classes`;
    all.onclick = () => {
      show(best.length);
      all.hidden = true;
    };
  }

  function verdict(answer, name, share) {
    if (answer.rejected) return `Rejected: too uncertain, or unlike the training images. The most probable class is ${name} (${percent(share)}).`;
    const parts = [`probability ${percent(share)}`];
    if (answer.rejected === false) parts.push("not rejected");
    const others = (answer.set || []).filter((k) => k !== answer.class).map((k) => classes[k]);
    if (others.length) parts.push(`also possible: ${others.slice(0, 10).join(", ")}`);
    return `${parts.join("; ")}.`;
  }

  function bar(name, share) {
    const row = element("li");
    const label = element("span", "name", name);
    label.title = name;
    const track = element("span", "track");
    const filled = element("div", "bar");
    filled.style.width = `${100 * share}%`;
    track.append(filled);
    row.append(label, track, element("span", "share", percent(share)));
    return row;
  }

  function showNearest(card, answer, predicted) {
    card.querySelector(".near").hidden = false;
    const waiting = card.querySelector(".waiting");
    waiting.textContent = answer.reason;
    waiting.hidden = !answer.reason;
    card.querySelector(".nearest").replaceChildren(
      ...answer.images.map((image) => {
        const item = element("li", image.class === predicted ? "same" : "");
        const picture = element("img");
        picture.src = `/train/${image.index}`;
        picture.alt = `training image of class ${classes[image.class]}`;
        item.title = `${classes[image.class]}, similarity ${image.similarity.toFixed(2)}`;
        item.append(picture, element("p", "", classes[image.class]));
        return item;
      }),
    );
  }

  // Asks for the answer, then for the neighbours, unless `current` says that a newer image is there.
  async function assess(card, blob, query = "", current = () => true) {
    try {
      if (blob.size > limits.bytes) throw new Error(`the file has more than ${megabytes} MB, which is the limit`);
      const answer = await postImage(`/api/assess${query}`, blob);
      if (!current()) return;
      showAnswer(card, answer);
      card.querySelector(".near").hidden = false;
      const nearest = await postImage(`/api/nearest${query}`, blob);
      if (current()) showNearest(card, nearest, answer.class);
    } catch (error) {
      if (current()) fail(card, error);
    }
  }

  function add(files) {
    const images = [...files].filter((file) => file.size || file.type);
    const taken = images.slice(0, limits.files);
    // A new card comes to the top, so the last one is made first.
    const cards = taken.map((file) => file.name || "pasted image").reverse().map(newCard).reverse();
    taken.forEach((file, i) => {
      waiting = waiting.then(() => assess(cards[i], file));
    });
    if (images.length > taken.length) {
      fail(newCard(`${images.length - taken.length} more images`), new Error(`at most ${limits.files} images are accepted at a time`));
    }
  }

  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add(event.clipboardData.files);
  });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      const inside = name === "dragenter" || name === "dragover";
      document.body.classList.toggle("dragging", inside);
      if (name === "drop") add(event.dataTransfer.files);
    });
  }
  drawOn($("canvas"), page.model.pen, $("clear"), newCard, assess);
}

// Paper that is classified after each stroke. One card shows the drawing until it is cleared.
function drawOn(canvas, width, clear, newCard, assess) {
  const pen = canvas.getContext("2d");
  let card = null;
  let version = 0;
  let last = null;

  function empty() {
    version += 1;
    card = null;
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    clear.disabled = true;
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  function draw(event) {
    const next = point(event);
    pen.strokeStyle = "#000000";
    pen.lineWidth = width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...next);
    pen.stroke();
    last = next;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    last = point(event);
    draw(event); // a dot
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) draw(event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (!last) return;
      last = null;
      clear.disabled = false;
      card = card && card.isConnected ? card : newCard("drawing");
      const drawn = (version += 1);
      const shown = card;
      canvas.toBlob((blob) => assess(shown, blob, "?drawing", () => drawn === version), "image/png");
    });
  }
  clear.addEventListener("click", empty);
  empty();
}

// Label

function labelPage(page, state) {
  const keys = new Map(); // key to the number of a class
  const buttons = state.classes.map((name, k) => {
    const button = element("button");
    button.type = "button";
    if (state.keys[k]) {
      keys.set(state.keys[k], k);
      if (state.keys[k] !== name) button.append(element("kbd", "", state.keys[k]));
    }
    button.append(element("span", "name", name));
    button.title = name;
    button.addEventListener("click", () => act("label", k));
    return button;
  });
  const pictures = new Map(); // the next pictures are loaded while a person looks at this one
  let busy = false;

  function picture(image) {
    if (!pictures.has(image.index)) {
      const node = element("img");
      node.addEventListener("load", () => {
        // Small images are enlarged, but a tiny one with huge pixels is hard to recognise.
        const small = node.naturalWidth <= SMALL;
        const scale = small ? 28 : 4;
        node.classList.toggle("pixels", small);
        node.style.maxWidth = `${scale * node.naturalWidth}px`;
        node.style.maxHeight = `${scale * node.naturalHeight}px`;
      });
      node.src = `/image/${image.index}`;
      pictures.set(image.index, node);
    }
    const node = pictures.get(image.index);
    node.alt = image.name;
    return node;
  }

  // With too many classes for the keys, a person types a part of a name.
  const find = $("find");
  const typed = state.keys.length === 0;
  const matches = () => buttons.filter((button) => !button.hidden);

  function filter() {
    const part = find.value.trim().toLowerCase();
    for (const button of buttons) {
      button.hidden = !button.title.toLowerCase().includes(part);
      button.classList.remove("first");
    }
    if (part && matches().length) matches()[0].classList.add("first");
  }

  $("label").hidden = false;
  find.hidden = !typed;
  $("classes").classList.toggle("many", typed);
  $("classes").replaceChildren(...buttons);
  $("classes").classList.toggle("short", state.classes.every((name) => [...name].length <= 2));
  $("written").textContent = `Each label is written to ${state.file} immediately.`;

  function show(next) {
    state = next;
    const image = state.image;
    $("progress").value = state.total ? (state.labelled + state.unsure) / state.total : 1;
    $("counts").textContent =
      `${state.labelled.toLocaleString("en")} labelled, ${state.unsure.toLocaleString("en")} not sure, ` +
      `${state.left.toLocaleString("en")} left` + (state.skipped ? `, ${state.skipped} of them skipped` : "");
    $("subject").textContent = image === null ? `All ${state.total} images are done.` : image.name;
    const shown = [image, ...state.next].filter(Boolean);
    $("frame").replaceChildren(...shown.slice(0, image === null ? 0 : 1).map(picture));
    shown.forEach(picture);
    for (const index of pictures.keys()) {
      if (!shown.some((other) => other.index === index)) pictures.delete(index);
    }
    $("undo").disabled = !state.undo;
    $("unsure").disabled = $("skip").disabled = image === null;
    buttons.forEach((button, k) => {
      button.disabled = image === null;
    });
  }

  async function act(action, label = null) {
    if (busy || (action !== "undo" && state.image === null)) return;
    busy = true;
    $("message").textContent = "";
    try {
      const index = state.image === null ? null : state.image.index;
      show(await postJson("/api/label", { action, label, image: index }));
    } catch (error) {
      $("message").textContent = error.message;
      if (error.state) show(error.state);
    }
    busy = false;
    if (typed) {
      find.value = "";
      filter();
      find.focus();
    }
  }

  find.addEventListener("input", filter);
  for (const action of ["undo", "unsure", "skip"]) $(action).addEventListener("click", () => act(action));

  const actions = { ArrowLeft: "undo", Backspace: "undo", ArrowRight: "skip", "?": "unsure" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key;
    if (event.target === find && find.value) {
      // Everything else is typed into the field.
      if (key === "Enter" && matches().length) act("label", buttons.indexOf(matches()[0]));
      return;
    }
    const label = keys.has(key) ? keys.get(key) : keys.get(key.toLowerCase());
    if (label === undefined && !actions[key]) return;
    event.preventDefault();
    if (label !== undefined) act("label", label);
    else act(actions[key]);
  });
  show(state);
  if (typed) find.focus();
}

// A dropped file would replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());

async function start() {
  const page = await request("/api/page");
  document.title = `${document.title}: ${page.name}`;
  $("name").textContent = page.name;
  const labels = document.body.dataset.page === "label";
  $("to-label").hidden = !page.label;
  if (labels && page.label) labelPage(page, await request("/api/label"));
  else if (labels) $("no-label").hidden = false;
  else if (page.model) tryPage(page);
  else $("no-model").hidden = false;
}

start().catch((error) => {
  document.querySelector("main").prepend(element("p", "message", error.message));
});
