//! Packets in, verdicts and packets out.
