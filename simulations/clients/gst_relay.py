#!/usr/bin/python3
"""Two GStreamer webrtcbin elements that may only use relay candidates: VP8 video through one TURN server.

    gst_relay.py 10.60.0.1:3478 USERNAME CREDENTIAL [--transport udp|tcp] [--seconds N]

Needs the system's Python with python3-gi. Prints one JSON line of what was seen, then `OK` or `FAIL reason`.
"""

import argparse
import json
import sys
from urllib.parse import quote

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402,F401 (GstSdp registers the SDP types)

CONNECT_TIMEOUT_S = 20
SENDER = (
    "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=15/1 ! vp8enc deadline=1 ! rtpvp8pay"
    " ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! webrtcbin name=peer bundle-policy=max-bundle"
)
DECODER = "rtpvp8depay ! vp8dec ! fakesink name=frames signal-handoffs=true sync=false"


class Call:
    """A sending and a receiving webrtcbin in one process, each in its own pipeline."""

    def __init__(self, turn_server):
        self.frames = 0
        self.candidate_types = {"sender": set(), "receiver": set()}
        self.sending = Gst.parse_launch(SENDER)
        self.receiving = Gst.Pipeline.new(None)
        self.sender = self.sending.get_by_name("peer")
        self.receiver = Gst.ElementFactory.make("webrtcbin", "peer")
        self.receiver.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.receiving.add(self.receiver)
        for peer in (self.sender, self.receiver):
            peer.set_property("ice-transport-policy", GstWebRTC.WebRTCICETransportPolicy.RELAY)
            peer.set_property("turn-server", turn_server)
        self._trickle("sender", self.sender, self.receiver)
        self._trickle("receiver", self.receiver, self.sender)
        self.receiver.connect("pad-added", self._decode)
        self.sender.connect("on-negotiation-needed", self._offer)

    def start(self):
        self.receiving.set_state(Gst.State.PLAYING)
        self.sending.set_state(Gst.State.PLAYING)

    def stop(self):
        self.sending.set_state(Gst.State.NULL)
        self.receiving.set_state(Gst.State.NULL)

    def state(self):
        return self.sender.get_property("connection-state").value_nick

    def _trickle(self, name, source, target):
        def pass_on(_element, line, candidate):
            words = candidate.split()
            self.candidate_types[name].add(words[words.index("typ") + 1])
            target.emit("add-ice-candidate", line, candidate)

        source.connect("on-ice-candidate", pass_on)

    def _decode(self, _element, pad):
        decoder = Gst.parse_bin_from_description(DECODER, True)
        self.receiving.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))
        decoder.get_by_name("frames").connect("handoff", self._count)

    def _count(self, *_):
        self.frames += 1

    def _offer(self, sender):
        sender.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered))

    def _offered(self, promise):
        reply = promise.get_reply()  # must stay referenced: the description inside is freed with it
        offer = reply.get_value("offer")
        self.sender.emit("set-local-description", offer, None)
        self.receiver.emit("set-remote-description", offer, Gst.Promise.new_with_change_func(self._answer))

    def _answer(self, _promise):
        self.receiver.emit("create-answer", None, Gst.Promise.new_with_change_func(self._answered))

    def _answered(self, promise):
        reply = promise.get_reply()
        answer = reply.get_value("answer")
        self.receiver.emit("set-local-description", answer, None)
        self.sender.emit("set-remote-description", answer, None)


def run(call, seconds):
    """Runs until the first frame and `seconds` more, or until the call has failed to connect in time."""
    loop = GLib.MainLoop()
    progress = {"ticks": 0, "first_frames": None}

    def tick():
        progress["ticks"] += 1
        if progress["first_frames"] is None:
            if call.frames == 0:
                if progress["ticks"] >= 10 * CONNECT_TIMEOUT_S:
                    loop.quit()
                return True
            progress["first_frames"] = call.frames
            GLib.timeout_add_seconds(seconds, loop.quit)
        return True

    GLib.timeout_add(100, tick)
    call.start()
    loop.run()
    seen = {
        "candidates": {name: sorted(types) for name, types in call.candidate_types.items()},
        "frames": call.frames - (progress["first_frames"] or 0),
        "state": call.state(),
    }
    call.stop()
    return seen


def fault(seen, seconds):
    """Says what is wrong with the call, or nothing."""
    if seen["candidates"] != {"sender": ["relay"], "receiver": ["relay"]}:
        return "candidates other than relay, or none"
    if seen["state"] != "connected":
        return f"the connection is {seen['state']}"
    if seen["frames"] < 5 * seconds:
        return f"only {seen['frames']} video frames in {seconds} s"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", help="HOST:PORT")
    parser.add_argument("username")
    parser.add_argument("credential")
    parser.add_argument("--transport", choices=["udp", "tcp"], default="udp")
    parser.add_argument("--seconds", type=int, default=3, help="how long to watch the call (default 3)")
    arguments = parser.parse_args()

    Gst.init(None)
    user, password = (quote(part, safe="") for part in (arguments.username, arguments.credential))
    url = f"turn://{user}:{password}@{arguments.server}?transport={arguments.transport}"
    seen = run(Call(url), arguments.seconds)
    print(json.dumps(seen))
    reason = fault(seen, arguments.seconds)
    print(f"FAIL {reason}" if reason else "OK")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
