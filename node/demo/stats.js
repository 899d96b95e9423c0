// One flat reading of a peer connection out of the many reports of getStats(). No DOM.

/** Seconds, bytes and counts of one side; a field is null while the browser does not report it, or without a call. */
export async function read(pc) {
  const reports = pc ? await pc.getStats() : new Map();
  const pair = selectedPair(reports);
  const local = reports.get(pair?.localCandidateId);
  const remote = reports.get(pair?.remoteCandidateId);
  const video = find(reports, (r) => r.type === 'inbound-rtp' && r.kind === 'video');
  const heard = find(reports, (r) => r.type === 'remote-inbound-rtp' && r.kind === 'video');
  return {
    state: pc?.connectionState ?? 'new',
    candidateType: local?.candidateType ?? null,
    remoteCandidateType: remote?.candidateType ?? null,
    relayProtocol: local?.relayProtocol ?? null,
    relayAddress: addressOf(local),
    rtt: pair?.currentRoundTripTime ?? heard?.roundTripTime ?? null,
    bytesSent: pair?.bytesSent ?? 0,
    bytesReceived: pair?.bytesReceived ?? 0,
    framesDecoded: video?.framesDecoded ?? 0,
    framesPerSecond: video?.framesPerSecond ?? null,
    packetsReceived: video?.packetsReceived ?? 0,
    packetsLost: video?.packetsLost ?? 0,
    jitter: video?.jitter ?? null,
    at: pair?.timestamp ?? performance.timeOrigin + performance.now(),
  };
}

/** Bits per second between two readings of the same side, or null where that says nothing. */
export function bitrateBetween(earlier, later, field) {
  if (!earlier || later.at <= earlier.at) return null;
  const bits = (later[field] - earlier[field]) * 8;
  return bits < 0 ? null : bits / ((later.at - earlier.at) / 1000);
}

export function lossShare(reading) {
  const expected = reading.packetsReceived + reading.packetsLost;
  return expected > 0 ? Math.max(0, reading.packetsLost) / expected : null;
}

function selectedPair(reports) {
  const transport = find(reports, (r) => r.type === 'transport' && r.selectedCandidatePairId);
  if (transport) return reports.get(transport.selectedCandidatePairId);
  // Older Firefox has no transport report, but marks the pair itself.
  return find(reports, (r) => r.type === 'candidate-pair' && (r.selected || (r.nominated && r.state === 'succeeded')));
}

function addressOf(candidate) {
  const address = candidate?.address ?? candidate?.ip;
  if (!address) return null;
  return address.includes(':') ? `[${address}]:${candidate.port}` : `${address}:${candidate.port}`;
}

function find(reports, matches) {
  for (const report of reports.values()) if (matches(report)) return report;
  return undefined;
}
