/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the process tells the flow steerer. The Rust types of `src/layout.rs` have the same layout; a test compares them
 * with this file's BTF. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d; numbers are in host order unless it is said. */
#pragma once

#define ROWS_MAX 65536
#define SERVERS_MAX 1024
#define ADDRESSES_MAX 2048 /* a power of two; half of it is used at most */
#define RELAYS_MAX 64
#define SLICES 64
#define KEYS_MAX 8
#define HOPS_MAX 5
#define REASONS 32

struct row {
	__u16 current, next;
	__u16 previous[2];
	__u16 fallback[2];
};

struct node {
	__u16 site, server;
};

struct key {
	__u64 secret[2]; /* as SipHash takes it */
	__u32 id;
	__u32 pad;
};

enum role {
	ROLE_USED = 1,
	ROLE_SERVICE = 2,
	ROLE_RELAY = 4,
	ROLE_MEMBER = 8,
};

struct address {
	__u8 ip[16];
	__u8 roles;
	__u8 relay; /* index into `slices` */
	__u16 pad;
};

struct member {
	__u8 ip[16];
	__u16 port; /* big-endian; 0: no such server */
	__u16 pad;
};

struct config {
	__u32 epoch;
	struct node me;
	__u32 row_mask;
	__u32 mtu;
	__u32 encapsulation_count, ufrag_count;
	__u64 hash_key[2];
	struct key encapsulation[KEYS_MAX]; /* the first one seals */
	struct key ufrag[KEYS_MAX];
	__u64 udp_ports[1024], tcp_ports[1024]; /* a bit for each port */
	struct address addresses[ADDRESSES_MAX]; /* open addressing, see `address_slot` */
	struct member members[SERVERS_MAX];
	struct node slices[RELAYS_MAX][SLICES];
	struct row rows[ROWS_MAX];
};

struct flow {
	__u8 client[16], service[16];
	__u16 client_port, service_port; /* big-endian */
	__u32 protocol;
};

struct neighbour {
	__u64 good_until_ns; /* of CLOCK_MONOTONIC_COARSE; all ones: for ever */
	__u32 interface;
	__u8 destination[6], source[6];
};

struct health {
	__u64 beat_ns; /* CLOCK_MONOTONIC_COARSE of the process's last sign of life; all ones: do not ask */
	__u8 is_dead[SERVERS_MAX];
};

struct counter {
	__u64 packets, bytes;
};

enum reason {
	NOT_IP, MALFORMED, NOT_OURS, OWN_FLOW, OWN_SLICE, OPENER, WAY_ENDS, REASSEMBLED, OTHER_SITE, TOO_LARGE,
	BETWEEN_SERVERS, ROW, OPENER_ASKS, SLICE, ICE, KNOWN_FLOW, FRAGMENT, NEXT_HOP, NEWER_ROW, STRANGER,
	BAD_ENCAPSULATION, WRONG_OWNER, TCP_FRAGMENT, TCP_TOO_LARGE, NO_NEIGHBOUR,
};
