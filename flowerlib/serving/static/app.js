// The page: every photograph gets a card and a request of its own.

import { describeModel, predict } from "./api.js";
import { isAvailable, takePhotograph } from "./camera.js";

const $ = (selector) => document.querySelector(selector);
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** Return a copy of a template's element. */
const clone = (name) => $(`template#${name}`).content.firstElementChild.cloneNode(true);

/** Add photographs above those that are there, and classify them. */
function add(files) {
  const cards = [...files].map(createCard);
  $("#results").prepend(...cards);
  $("#notice").textContent = cards.length ? "" : "There is no image file in that. Save the image first, then choose it.";
}

function createCard(file) {
  const card = clone("card");
  const photo = card.querySelector(".photo");
  photo.alt = `Photograph ${file.name}`;
  photo.onerror = () => (card.querySelector(".photograph").hidden = true); // a format that the browser cannot show
  photo.src = URL.createObjectURL(file);
  card.querySelector("figcaption").textContent = file.name;
  card.querySelector("h2").textContent = file.name;
  card.querySelector(".retry").onclick = () => classify(file, card);
  classify(file, card);
  return card;
}

async function classify(file, card) {
  setState(card, "progress");
  try {
    const prediction = await predict(file);
    showPrediction(card, prediction);
    const [best] = prediction.predictions;
    $("#status").textContent = `${file.name}: ${best.class}, ${percent.format(best.probability)}`;
  } catch (error) {
    card.querySelector(".error").textContent = error.message;
    setState(card, "error");
    card.querySelector(".retry").hidden = !error.isTemporary;
    $("#status").textContent = `${file.name}: ${error.message}`;
  }
}

/** Show that a card is in `progress`, has an `error`, or has its `predictions`. */
function setState(card, state) {
  for (const name of ["progress", "error", "predictions"]) card.querySelector(`.${name}`).hidden = name !== state;
  card.querySelector(".retry").hidden = true;
  card.setAttribute("aria-busy", state === "progress");
}

function showPrediction(card, { predictions, activation_map, similar }) {
  card.querySelector("h2").textContent = predictions[0].class;
  card.querySelector(".predictions").replaceChildren(...predictions.map(predictionItem));
  showActivationMap(card, activation_map);
  card.querySelector(".similar").hidden = !similar.length;
  card.querySelector(".similar ul").replaceChildren(...similar.map(similarItem));
  setState(card, "predictions");
}

function predictionItem({ class: name, probability }) {
  const item = clone("prediction");
  item.querySelector(".name").textContent = name;
  item.querySelector(".percent").textContent = percent.format(probability);
  item.querySelector(".bar span").style.width = `${100 * probability}%`;
  return item;
}

/** Lay the activation map over the photograph; over the server's copy where the browser cannot show the file. */
function showActivationMap(card, { class: name, image, overlay }) {
  const photograph = card.querySelector(".photograph");
  const photo = card.querySelector(".photo");
  const map = card.querySelector(".overlay");
  const slider = card.querySelector(".opacity input");
  photo.onerror = () => (photo.src = image);
  if (photograph.hidden) photo.onerror();
  map.src = overlay;
  map.alt = `Class activation map of ${name}`;
  card.querySelector(".explanation").textContent = `Bright places support ${name}.`;
  for (const part of [photograph, ...photograph.querySelectorAll("[hidden]")]) part.hidden = false;
  slider.oninput = () => (map.style.opacity = slider.value / 100);
  slider.oninput();
}

function similarItem({ class: name, cosine, thumbnail }) {
  const item = clone("similar");
  item.querySelector("img").src = thumbnail;
  item.querySelector("img").alt = `Training image of ${name}`;
  item.querySelector(".name").textContent = name;
  item.querySelector(".cosine").textContent = cosine.toFixed(2);
  return item;
}

async function showModel() {
  try {
    const model = await describeModel();
    document.body.classList.toggle("pad", model.fit === "pad");
    // Named only where the server reads them: for a file that is not named, such as HEIC, telephones send a JPEG.
    for (const input of [$("#files"), $("#capture")]) input.accept = ["image/*", ...model.suffixes].join();
    $("#smoke-test").hidden = !model.smoke_test;
    const score = model.val_macro_f1 === null ? "not known" : model.val_macro_f1.toFixed(3); // it trained on them too
    $("#about").textContent =
      `${model.name} (${model.backbone}) tells ${model.classes.length} classes apart; its macro F1 on validation ` +
      `images is ${score}. It names one of them whatever the photograph shows.`;
  } catch (error) {
    $("#notice").textContent = error.message;
  }
}

/** Let a button open a file input, and add what is chosen there. */
function listenToInput(input) {
  input.onchange = () => {
    add(input.files);
    input.value = ""; // the same file may be chosen again
  };
}

function listenToDrops() {
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  };
  document.ondragleave = (event) => event.relatedTarget || document.body.classList.remove("dragging");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    add(event.dataTransfer.files);
  };
}

listenToInput($("#files"));
listenToInput($("#capture"));
listenToDrops();
document.onpaste = (event) => add(event.clipboardData.files);
$("#choose").onclick = () => $("#files").click();
$("#camera").hidden = !isAvailable;
$("#camera").onclick = () => takePhotograph(add).catch((error) => ($("#notice").textContent = error.message));
showModel();
