// The camera: a telephone's own over the file input, elsewhere a viewfinder.

const viewfinder = document.querySelector("#viewfinder");
const video = viewfinder.querySelector("video");
const isTelephone = matchMedia("(pointer: coarse)").matches;

// Browsers offer `mediaDevices` over https and on localhost only.
export const isAvailable = isTelephone || Boolean(navigator.mediaDevices?.getUserMedia);

/** Let the user take a photograph, and pass it to `add` as a list of one file. */
export async function takePhotograph(add) {
  if (isTelephone) {
    document.querySelector("#capture").click();
    return;
  }
  const constraints = { video: { facingMode: "environment", width: { ideal: 1920 } } };
  video.srcObject = await navigator.mediaDevices.getUserMedia(constraints);
  viewfinder.showModal();
  viewfinder.querySelector(".shutter").onclick = async () => {
    add([await frame()]);
    viewfinder.close();
  };
}

/** Return what the viewfinder shows as a JPEG file. */
async function frame() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  return new File([blob], "camera.jpg", { type: blob.type });
}

viewfinder.querySelector(".cancel").onclick = () => viewfinder.close();
viewfinder.onclose = () => {
  for (const track of video.srcObject.getTracks()) track.stop();
  video.srcObject = null;
};
