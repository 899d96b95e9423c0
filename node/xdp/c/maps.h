/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the program keeps between packets, and what its functions tell each other about one. */
#pragma once

#define GUE_BYTES 32
#define SEALED_BYTES 24
#define UDP_BYTES 8
#define ETHERNET_MAX 22
#define RELAY_PORT_MIN 9216
#define NEIGHBOUR_GOOD_NS 100000000ULL
#define BEAT_WITHIN_NS 1000000000ULL

enum kind { KIND_STEERED = 1, KIND_FRAGMENT = 2, KIND_RELAYED = 3, KIND_ALIVE = 5 };

/* Two of them: one in force, and one that is being written */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct config);
} configs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} in_force SEC(".maps"); /* 0: none, else the index into `configs` plus 1 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct flow);
	__type(value, __u32); /* the server that has it */
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SERVERS_MAX);
	__type(key, __u32);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct health);
} healths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

/* Whose packet it is */
enum subject { SUBJECT_CLIENT, SUBJECT_RELAY, SUBJECT_FRAGMENT, SUBJECT_PASS, SUBJECT_DROP };

struct tuple {
	__u32 client[4], service[4];
	__u16 client_port, service_port; /* big-endian */
	__u8 protocol, version;
};

struct found {
	enum subject subject;
	enum reason reason; /* of SUBJECT_PASS and SUBJECT_DROP */
	enum class class;
	struct node owner; /* of a relay port, or named by a username fragment */
	struct tuple tuple;
	__u32 tcp; /* where the TCP header is; 0: none or only quoted */
	__u16 landing; /* of an encapsulated packet */
	__u32 fragment;
};

/* What the functions below tell each other: the stack holds 512 bytes, and what lies here the verifier does not follow
 * through every combination of branches. */
struct scratch {
	struct packet outer, inner;
	struct found found;
	struct hops hops, own;
	__u64 hash, mac;
	union {
		__u8 bytes[72];
		__u64 words[9];
	} sealed; /* what the MAC is over */
	struct bpf_fib_lookup fib;
	__u32 length; /* of the frame */
	__u32 epoch;
	__u16 me, entropy;
	__u8 me_is_dead, kind;
	__u8 ethernet[ETHERNET_MAX + 2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline int done(const struct scratch *s, enum reason reason, int action)
{
	__u32 key = reason;
	struct counter *counter = bpf_map_lookup_elem(&counters, &key);
	if (counter) {
		counter->packets++;
		counter->bytes += s->length;
	}
	return action;
}

static __always_inline struct cursor cursor_of(struct xdp_md *xdp, const struct scratch *s)
{
	struct cursor c = { (void *)(long)xdp->data, (void *)(long)xdp->data_end, s->length };
	return c;
}
