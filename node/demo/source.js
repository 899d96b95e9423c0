// What A sends: the generated picture, or camera and microphone where the browser offers them.

import { PALETTES, Picture } from './picture.js';

const CAMERA = { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 30 } };

export class SourceOfA {
  #picture = null;
  #camera = null;

  get onCamera() {
    return this.#camera !== null;
  }

  /** { video, audio }: the picture has no sound. */
  get tracks() {
    if (this.#camera) {
      return { video: this.#camera.getVideoTracks()[0], audio: this.#camera.getAudioTracks()[0] ?? null };
    }
    this.#picture ??= new Picture(PALETTES.a);
    return { video: this.#picture.track, audio: null };
  }

  /** Rejects with an Error whose message is for a person. `onEnded` when the camera is taken away. */
  async toCamera(onEnded) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error('Browsers offer the camera only over https or on localhost. The generated picture proves the same.');
    }
    this.#camera = await openCamera();
    this.#camera.getVideoTracks()[0].addEventListener('ended', onEnded);
  }

  toPicture() {
    this.#camera?.getTracks().forEach((track) => track.stop());
    this.#camera = null;
  }

  /** Stops drawing; the camera stays open until the person switches it off. */
  rest() {
    this.#picture?.stop();
    this.#picture = null;
  }
}

async function openCamera() {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: CAMERA, audio: true });
  } catch (error) {
    // A camera without a microphone is still a camera.
    if (error.name === 'NotFoundError') return navigator.mediaDevices.getUserMedia({ video: CAMERA }).catch(refuse);
    return refuse(error);
  }
}

function refuse(error) {
  throw new Error({
    NotAllowedError: 'The browser may not use the camera. Permit it beside the address, then try again.',
    NotFoundError: 'No camera was found.',
    NotReadableError: 'The camera is in use by another program.',
  }[error.name] ?? `The camera did not start: ${error.message}`);
}
