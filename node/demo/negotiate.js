// Offer and answer between two peer connections of the same page (RFC 8829), with candidates trickled as they come.

/** `beforeAnswer` runs once `b` knows the offer: the moment to add what `b` sends. */
export async function negotiate(a, b, beforeAnswer = () => {}) {
  const toB = deliverAfterDescription(a, b);
  const toA = deliverAfterDescription(b, a);
  await a.setLocalDescription(await a.createOffer());
  await b.setRemoteDescription(a.localDescription);
  toB.open();
  beforeAnswer();
  await b.setLocalDescription(await b.createAnswer());
  await a.setRemoteDescription(b.localDescription);
  toA.open();
}

/** Candidates of `from` wait until `to` has a remote description: before that, `to` would refuse them. */
function deliverAfterDescription(from, to) {
  let open;
  const opened = new Promise((resolve) => { open = resolve; });
  from.addEventListener('icecandidate', async (event) => {
    if (!event.candidate) return;
    await opened;
    // A candidate that cannot be used is no failure of the call: others may do, and the time limit watches.
    if (to.signalingState !== 'closed') await to.addIceCandidate(event.candidate).catch(() => {});
  });
  return { open };
}
