#!/usr/bin/env python3
"""Two aiortc peers that may only use relay candidates: video and a data channel through one TURN server.

    aiortc_relay.py turn:10.60.0.1:3478?transport=udp USERNAME CREDENTIAL [--seconds N]

Prints one JSON line of what was seen, then `OK` (exit code 0) or `FAIL reason` (exit code 1).
"""

import argparse
import asyncio
import json
import sys

from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, VideoStreamTrack

CONNECT_TIMEOUT_S = 20
GREETING = "through the relay"


class Receiver:
    """Counts the video frames and keeps the first data channel message that a peer gets."""

    def __init__(self, peer):
        self.frames = 0
        self.message = asyncio.get_running_loop().create_future()
        self._tasks = []
        peer.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._count(track))))
        peer.on("datachannel", lambda channel: channel.on("message", self._keep))

    async def _count(self, track):
        try:
            while True:
                await track.recv()
                self.frames += 1
        except MediaStreamError:
            pass  # the sender has closed its connection

    def _keep(self, message):
        if not self.message.done():
            self.message.set_result(message)


async def connect(caller, callee):
    """Exchanges offer and answer; aiortc gathers every candidate before it returns a description."""
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)


def candidate_types(peer):
    lines = (line.split() for line in peer.localDescription.sdp.splitlines() if line.startswith("a=candidate:"))
    return sorted({words[words.index("typ") + 1] for words in lines})


async def call(arguments):
    server = RTCIceServer(urls=arguments.url, username=arguments.username, credential=arguments.credential)
    configuration = RTCConfiguration(iceServers=[server], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    caller, callee = RTCPeerConnection(configuration), RTCPeerConnection(configuration)
    try:
        received = Receiver(callee)
        caller.addTrack(VideoStreamTrack())
        channel = caller.createDataChannel("greeting")
        channel.on("open", lambda: channel.send(GREETING))
        await connect(caller, callee)
        message = await received.message
        frames_at_connect = received.frames
        await asyncio.sleep(arguments.seconds)
        return {
            "candidates": {"caller": candidate_types(caller), "callee": candidate_types(callee)},
            "message": message,
            "frames": received.frames - frames_at_connect,
            "state": caller.connectionState,
        }
    finally:
        await caller.close()
        await callee.close()


def fault(seen, seconds):
    """Says what is wrong with the call, or nothing."""
    if seen["candidates"] != {"caller": ["relay"], "callee": ["relay"]}:
        return "candidates other than relay, or none"
    if seen["message"] != GREETING:
        return "the data channel message was damaged"
    if seen["state"] != "connected":
        return f"the connection is {seen['state']}"
    if seen["frames"] < 10 * seconds:
        return f"only {seen['frames']} video frames in {seconds} s"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("username")
    parser.add_argument("credential")
    parser.add_argument("--seconds", type=int, default=3, help="how long to watch the call (default 3)")
    arguments = parser.parse_args()

    bounded = asyncio.wait_for(call(arguments), CONNECT_TIMEOUT_S + arguments.seconds)
    try:
        seen = asyncio.run(bounded)
    except TimeoutError:
        print(f"FAIL no data channel message within {CONNECT_TIMEOUT_S} s")
        return 1
    except Exception as error:  # whatever went wrong, say it in one line
        print(f"FAIL {type(error).__name__}: {error}")
        return 1
    print(json.dumps(seen))
    reason = fault(seen, arguments.seconds)
    print(f"FAIL {reason}" if reason else "OK")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
