#!/usr/bin/env python3
"""Two peer connections in one headless Chromium page that may only use relay candidates, through one TURN server.

    chromium_relay.py turn:10.60.0.1:3478?transport=udp USERNAME CREDENTIAL [--seconds N]

Prints one JSON line of statistics per second, then `OK` (exit code 0) or `FAIL reason` (exit code 1).
"""

import argparse
import json
import sys
import time

from playwright.sync_api import Error, sync_playwright

CONNECT_TIMEOUT_S = 20
CHROMIUM_FLAGS = [
    "--no-sandbox",  # the tests run as root, and Chromium's sandbox refuses that
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-gpu",
    "--ignore-certificate-errors",  # `trunkline up` makes a self-signed certificate
]

# The camera needs a secure context; this page is answered by the route handler below, without any network.
PAGE_URL = "https://page.test/"

START_CALL = """
async ([url, username, credential]) => {
  const configuration = {iceServers: [{urls: url, username, credential}], iceTransportPolicy: 'relay'};
  const caller = new RTCPeerConnection(configuration);
  const callee = new RTCPeerConnection(configuration);
  window.call = {caller, callee, errors: [], message: null};
  caller.onicecandidate = event => event.candidate && callee.addIceCandidate(event.candidate);
  callee.onicecandidate = event => event.candidate && caller.addIceCandidate(event.candidate);
  caller.onicecandidateerror = event => window.call.errors.push(`${event.errorCode} ${event.errorText} ${event.url}`);
  callee.ontrack = event => {
    const video = document.createElement('video');
    Object.assign(video, {autoplay: true, muted: true, srcObject: event.streams[0]});
    document.body.append(video);
  };
  callee.ondatachannel = event => { event.channel.onmessage = message => { window.call.message = message.data; }; };
  const channel = caller.createDataChannel('greeting');
  channel.onopen = () => channel.send('through the relay');
  const stream = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}, audio: true});
  stream.getTracks().forEach(track => caller.addTrack(track, stream));
  await caller.setLocalDescription(await caller.createOffer());
  await callee.setRemoteDescription(caller.localDescription);
  await callee.setLocalDescription(await callee.createAnswer());
  await caller.setRemoteDescription(callee.localDescription);
}"""

READ_STATS = """
async () => {
  const side = async peer => {
    const reports = new Map();
    (await peer.getStats()).forEach(report => reports.set(report.id, report));
    const seen = {state: peer.connectionState, framesDecoded: 0, audioPackets: 0};
    for (const report of reports.values()) {
      if (report.type === 'inbound-rtp' && report.kind === 'video') seen.framesDecoded = report.framesDecoded;
      if (report.type === 'inbound-rtp' && report.kind === 'audio') seen.audioPackets = report.packetsReceived;
      if (report.type !== 'transport' || !reports.has(report.selectedCandidatePairId)) continue;
      const pair = reports.get(report.selectedCandidatePairId);
      const local = reports.get(pair.localCandidateId), remote = reports.get(pair.remoteCandidateId);
      Object.assign(seen, {local: local.candidateType, relayProtocol: local.relayProtocol,
        remote: remote.candidateType, rtt: pair.currentRoundTripTime});
    }
    return seen;
  };
  const {caller, callee, errors, message} = window.call;
  return {caller: await side(caller), callee: await side(callee), errors, message};
}"""


def watch(page, seconds):
    """Waits for the first decoded frames, then reads the statistics once a second; returns first and last."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    first = page.evaluate(READ_STATS)
    while first["callee"]["framesDecoded"] == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
        first = page.evaluate(READ_STATS)
    last = first
    for _ in range(seconds):
        time.sleep(1)
        last = page.evaluate(READ_STATS)
        print(json.dumps(last), flush=True)
    return first, last


def fault(first, last, protocol, seconds):
    """Says what is wrong with the call, or nothing."""
    for side in ("caller", "callee"):
        seen = last[side]
        if seen["state"] != "connected":
            return f"the {side} is {seen['state']}; candidate errors: {last['errors']}"
        if (seen["local"], seen["remote"]) != ("relay", "relay"):
            return f"the {side} uses {seen['local']} to {seen['remote']} candidates"
        if seen["relayProtocol"] != protocol:
            return f"the {side} reaches its relay by {seen['relayProtocol']}, not {protocol}"
    frames = last["callee"]["framesDecoded"] - first["callee"]["framesDecoded"]
    if frames < 5 * seconds:
        return f"only {frames} video frames in {seconds} s"
    if last["callee"]["audioPackets"] <= first["callee"]["audioPackets"]:
        return "no sound arrives"
    if last["message"] != "through the relay":
        return "the data channel message did not arrive"
    return None


def relay_protocol(url):
    """The protocol that Chromium should report for a TURN URI (RFC 7065)."""
    if url.startswith("turns:"):
        return "tls"
    return "tcp" if url.endswith("transport=tcp") else "udp"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("username")
    parser.add_argument("credential")
    parser.add_argument("--seconds", type=int, default=3, help="how long to watch the call (default 3)")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's executable")
    arguments = parser.parse_args()

    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=CHROMIUM_FLAGS)
            page = browser.new_page()
            page.route(PAGE_URL, lambda route: route.fulfill(content_type="text/html", body="<!doctype html><body>"))
            page.goto(PAGE_URL)
            page.evaluate(START_CALL, [arguments.url, arguments.username, arguments.credential])
            first, last = watch(page, arguments.seconds)
            browser.close()
    except Error as error:
        print(f"FAIL {error}")
        return 1
    reason = fault(first, last, relay_protocol(arguments.url), arguments.seconds)
    print(f"FAIL {reason}" if reason else "OK")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
