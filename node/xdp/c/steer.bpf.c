/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The flow steerer: to which server of the site a packet belongs, in the kernel, before its stack.
 *
 * `cores/steer` says the same in Rust and is the reference: a test compares verdicts and bytes over millions of packets.
 * Order of decisions: is it encapsulated for us; is it for an anycast address; whose is its slice, its flow, its row. */
#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"
#include "siphash.h"
#include "parse.h"
#include "classify.h"
#include "way.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

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

struct context {
	struct xdp_md *xdp;
	struct cursor cursor;
	const struct config *config;
	const struct health *health;
	int me_is_dead;
	__u16 me;
};

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
	__u32 fragment;
};

static __always_inline int done(struct context *x, enum reason reason, int action)
{
	__u32 key = reason;
	struct counter *counter = bpf_map_lookup_elem(&counters, &key);
	if (counter) {
		counter->packets++;
		counter->bytes += x->cursor.length;
	}
	return action;
}

static __always_inline const struct address *find(const struct config *config, const __u32 *ip)
{
	__u32 slot = (ip[0] ^ ip[1] ^ ip[2] ^ ip[3]) * 0x9e3779b1u >> 21;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		const struct address *address = &config->addresses[(slot + i) & (ADDRESSES_MAX - 1)];
		const __u32 *known = (const __u32 *)address->ip;
		if (!address->roles)
			return NULL;
		if (known[0] == ip[0] && known[1] == ip[1] && known[2] == ip[2] && known[3] == ip[3])
			return address;
	}
	return NULL;
}

static __always_inline int has_port(const __u64 *ports, __u16 port)
{
	return ports[port >> 6] >> (port & 63) & 1;
}

/* The hash of a flow: protocol, client, service, big-endian, without gaps */
static __noinline __u64 hash_flow(const struct config *config, const struct tuple *t)
{
	if (!config || !t)
		return 0;
	if (t->version == 4) {
		__u64 client = t->client[3], service = t->service[3];
		const __u64 words[2] = {
			t->protocol | client << 8 | (__u64)t->client_port << 40 | service << 56,
			service >> 8 | (__u64)t->service_port << 24 | 13ULL << 56,
		};
		return siphash(config->hash_key, words, 2);
	}
	union {
		__u8 bytes[40];
		__u64 words[5];
	} m = {};
	m.bytes[0] = t->protocol;
	__builtin_memcpy(m.bytes + 1, t->client, 16);
	__builtin_memcpy(m.bytes + 17, &t->client_port, 2);
	__builtin_memcpy(m.bytes + 19, t->service, 16);
	__builtin_memcpy(m.bytes + 35, &t->service_port, 2);
	m.words[4] |= 37ULL << 56;
	return siphash(config->hash_key, m.words, 5);
}

/* Of what the fragments of a packet have in common: protocol, source, destination, id */
static __noinline __u64 hash_fragment(const struct config *config, const struct tuple *t, __u32 id)
{
	union {
		__u8 bytes[40];
		__u64 words[5];
	} m = {};
	__u32 id_be = bpf_htonl(id);
	if (!config || !t)
		return 0;
	m.bytes[0] = t->protocol;
	if (t->version == 4) {
		__builtin_memcpy(m.bytes + 1, &t->client[3], 4);
		__builtin_memcpy(m.bytes + 5, &t->service[3], 4);
		__builtin_memcpy(m.bytes + 9, &id_be, 4);
		m.words[1] |= 13ULL << 56;
		return siphash(config->hash_key, m.words, 2);
	}
	__builtin_memcpy(m.bytes + 1, t->client, 16);
	__builtin_memcpy(m.bytes + 17, t->service, 16);
	__builtin_memcpy(m.bytes + 33, &id_be, 4);
	m.words[4] |= 37ULL << 56;
	return siphash(config->hash_key, m.words, 5);
}

/* Client's flow or relay port, by our port */
static __always_inline void by_port(struct context *x, const struct address *role, struct found *f)
{
	const struct config *config = x->config;
	__u16 port = bpf_ntohs(f->tuple.service_port);
	f->subject = SUBJECT_PASS;
	f->reason = NOT_OURS;
	const __u64 *ports = f->tuple.protocol == 6 ? config->tcp_ports : config->udp_ports;
	if (role->roles & ROLE_SERVICE && has_port(ports, port)) {
		f->subject = SUBJECT_CLIENT;
	} else if (role->roles & ROLE_RELAY && port >= RELAY_PORT_MIN) {
		f->owner = config->slices[role->relay & (RELAYS_MAX - 1)][port >> 10];
		if (f->owner.site || f->owner.server)
			f->subject = SUBJECT_RELAY;
	}
}

/* What a packet to one of the anycast addresses is */
static __always_inline void examine(struct context *x, const struct packet *p, struct found *f)
{
	struct cursor *c = &x->cursor;
	f->subject = SUBJECT_PASS;
	f->reason = NOT_OURS;
	f->class = CLASS_MEMBER;
	f->tcp = 0;
	const struct address *role = find(x->config, p->destination);
	if (!role || !(role->roles & (ROLE_SERVICE | ROLE_RELAY)))
		return;
	f->tuple.protocol = p->protocol;
	f->tuple.version = p->version;
	copy16(f->tuple.client, p->source);
	copy16(f->tuple.service, p->destination);
	if (p->is_fragment) {
		if (p->protocol == 17) {
			f->subject = SUBJECT_FRAGMENT;
			f->fragment = p->fragment;
		} else if (p->protocol == 6) {
			f->subject = SUBJECT_DROP;
			f->reason = TCP_FRAGMENT;
		}
		return;
	}
	if (p->protocol == 17 || p->protocol == 6) {
		__u32 least = p->protocol == 17 ? UDP_BYTES : 20;
		const __u16 *ports = at(c, p->body, 20 > UDP_BYTES ? 4 : 4);
		if (!ports || p->end - p->body < least) {
			f->reason = MALFORMED;
			return;
		}
		f->tuple.client_port = ports[0];
		f->tuple.service_port = ports[1];
		by_port(x, role, f);
		if (f->subject != SUBJECT_CLIENT)
			return;
		if (p->protocol == 17) {
			f->class = classify_datagram(c, x->config, p->body + UDP_BYTES, p->end, &f->owner);
			return;
		}
		const __u8 *tcp = at(c, p->body, 20);
		if (!tcp)
			return;
		f->tcp = p->body;
		f->class = (tcp[13] & 0x12) == 0x02 ? CLASS_OPENER : CLASS_MEMBER;
		return;
	}
	struct quoted q = {};
	if ((p->protocol != 1 && p->protocol != 58) || parse_quoted(c, p, &q))
		return;
	if (q.source[0] != p->destination[0] || q.source[1] != p->destination[1] ||
	    q.source[2] != p->destination[2] || q.source[3] != p->destination[3])
		return;
	f->tuple.protocol = q.protocol;
	copy16(f->tuple.client, q.destination);
	f->tuple.client_port = q.destination_port;
	f->tuple.service_port = q.source_port;
	by_port(x, role, f);
}

/* Whether a TCP segment is of a connection of this server, or answers a SYN cookie of its */
static __always_inline int tcp_is_ours(struct context *x, const struct packet *p, const struct found *f)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size;
	int ours = 0;
	if (f->tuple.version == 4) {
		tuple.ipv4.saddr = f->tuple.client[3];
		tuple.ipv4.daddr = f->tuple.service[3];
		tuple.ipv4.sport = f->tuple.client_port;
		tuple.ipv4.dport = f->tuple.service_port;
		size = sizeof(tuple.ipv4);
	} else {
		copy16(tuple.ipv6.saddr, f->tuple.client);
		copy16(tuple.ipv6.daddr, f->tuple.service);
		tuple.ipv6.sport = f->tuple.client_port;
		tuple.ipv6.dport = f->tuple.service_port;
		size = sizeof(tuple.ipv6);
	}
	struct bpf_sock *sk = bpf_skc_lookup_tcp(x->xdp, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	if (sk->state != BPF_TCP_LISTEN) {
		ours = 1;
	} else if (f->tcp) {
		struct tcphdr *tcp = at(&x->cursor, f->tcp, 20);
		void *ip = at(&x->cursor, p->start, 40);
		if (tcp && ip)
			ours = bpf_tcp_check_syncookie(sk, ip, p->version == 4 ? 20 : 40, tcp, 20) == 0;
	}
	bpf_sk_release(sk);
	return ours;
}

/* The server that is known to have a client's flow; 0: none */
static __always_inline __u16 known(struct context *x, const struct packet *p, const struct found *f)
{
	if (f->tuple.protocol == 6)
		return tcp_is_ours(x, p, f) ? x->me : 0;
	struct flow key = {};
	__builtin_memcpy(key.client, f->tuple.client, 16);
	__builtin_memcpy(key.service, f->tuple.service, 16);
	key.client_port = f->tuple.client_port;
	key.service_port = f->tuple.service_port;
	key.protocol = f->tuple.protocol;
	__u32 *server = bpf_map_lookup_elem(&flows, &key);
	return server ? *server : 0;
}

/* The hops of a row from here */
static __always_inline void way(struct context *x, __u64 hash, enum class class, __u16 named, struct hops *hops)
{
	const struct row *row = &x->config->rows[hash & x->config->row_mask & (ROWS_MAX - 1)];
	const struct health *health = x->health;
	const __u16 me = x->me;
	__u16 taker = me;
	if (spares(health, x->me_is_dead, me, row->current))
		taker = row->current;
	else if (spares(health, x->me_is_dead, me, row->fallback[0]))
		taker = row->fallback[0];
	else if (spares(health, x->me_is_dead, me, row->fallback[1]))
		taker = row->fallback[1];
	hops->count = 0;
	hops->index = 0;
#define ADD(server)                                                                                \
	do {                                                                                       \
		__u16 s = (server);                                                                \
		if (s != me && spares(health, x->me_is_dead, me, s) && !hold(hops, s))             \
			push(hops, s);                                                             \
	} while (0)
	switch (class) {
	case CLASS_OPENER:
		if (row->previous[0] != taker)
			ADD(row->previous[0]);
		if (row->previous[1] != taker)
			ADD(row->previous[1]);
		if (taker != me || hops->count)
			push(hops, taker);
		break;
	case CLASS_STATELESS:
		ADD(taker);
		break;
	case CLASS_ICE:
		ADD(named);
		break;
	default:
		ADD(taker);
		ADD(row->previous[0]);
		ADD(row->previous[1]);
		ADD(row->next);
		ADD(row->fallback[0]);
	}
#undef ADD
}

static __always_inline void header_checksum(__u8 *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(ip + 10) = ~sum;
}

/* The MAC over a header and the front of the packet behind it; -1 if there is not enough of it */
static __always_inline int seal(const struct cursor *c, const struct key *key, __u32 header, __u32 end, __u64 *mac)
{
	union {
		__u8 bytes[72];
		__u64 words[9];
	} m = {};
	const __u8 *h = at(c, header, SEALED_BYTES);
	__u32 inner = header + GUE_BYTES;
	if (!h)
		return -1;
	__builtin_memcpy(m.bytes, h, SEALED_BYTES);
	if (h[1] == 4) {
		const __u8 *front = at(c, inner, 24);
		if (front && inner + 24 <= end) {
			__builtin_memcpy(m.bytes + SEALED_BYTES, front, 24);
		} else {
			front = at(c, inner, 20);
			if (!front || inner + 20 > end)
				return -1;
			__builtin_memcpy(m.bytes + SEALED_BYTES, front, 20);
#pragma unroll
			for (int i = 0; i < 3; i++) {
				const __u8 *b = at(c, inner + 20 + i, 1);
				if (b && inner + 20 + i < end)
					m.bytes[SEALED_BYTES + 20 + i] = *b;
			}
		}
		m.words[6] = 48ULL << 56;
		*mac = siphash(key->secret, m.words, 7);
		return 0;
	}
	const __u8 *front = at(c, inner, 44);
	if (front && inner + 44 <= end) {
		__builtin_memcpy(m.bytes + SEALED_BYTES, front, 44);
	} else {
		front = at(c, inner, 40);
		if (!front || inner + 40 > end)
			return -1;
		__builtin_memcpy(m.bytes + SEALED_BYTES, front, 40);
#pragma unroll
		for (int i = 0; i < 3; i++) {
			const __u8 *b = at(c, inner + 40 + i, 1);
			if (b && inner + 40 + i < end)
				m.bytes[SEALED_BYTES + 40 + i] = *b;
		}
	}
	m.words[8] |= 68ULL << 56;
	*mac = siphash(key->secret, m.words, 9);
	return 0;
}

/* Finds the Ethernet addresses of the way to a server */
static __always_inline struct neighbour *neighbour_of(struct context *x, __u16 server)
{
	__u32 index = server;
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, &index);
	if (!n)
		return NULL;
	if (n->good_until_ns == ~0ULL)
		return n;
	__u64 now = bpf_ktime_get_coarse_ns();
	if (now < n->good_until_ns)
		return n;
	const struct member *from = &x->config->members[x->me & (SERVERS_MAX - 1)];
	const struct member *to = &x->config->members[server & (SERVERS_MAX - 1)];
	struct bpf_fib_lookup fib = {};
	const __u32 *source = (const __u32 *)from->ip, *destination = (const __u32 *)to->ip;
	fib.ifindex = x->xdp->ingress_ifindex;
	fib.l4_protocol = 17;
	if (destination[0] == 0 && destination[1] == 0 && destination[2] == bpf_htonl(0xffff)) {
		fib.family = 2;
		fib.ipv4_src = source[3];
		fib.ipv4_dst = destination[3];
	} else {
		fib.family = 10;
		copy16(fib.ipv6_src, source);
		copy16(fib.ipv6_dst, destination);
	}
	if (bpf_fib_lookup(x->xdp, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS)
		return NULL;
	n->interface = fib.ifindex;
	__builtin_memcpy(n->destination, fib.dmac, 6);
	__builtin_memcpy(n->source, fib.smac, 6);
	n->good_until_ns = now + NEIGHBOUR_GOOD_NS;
	return n;
}

static __always_inline int send_out(struct context *x, const struct neighbour *n, enum reason reason)
{
	if (!n->interface || n->interface == x->xdp->ingress_ifindex)
		return done(x, reason, XDP_TX);
	return done(x, reason, bpf_redirect(n->interface, 0));
}

static __always_inline void write_hops(__u8 *gue, const struct hops *hops)
{
	gue[5] = hops->count << 4 | hops->index;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		*(__u16 *)(gue + 6 + 2 * i) = bpf_htons(hops->servers[i]);
}

static __always_inline __u16 current_hop(const struct hops *hops)
{
	__u16 server = 0;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		if (i == hops->index && i < hops->count)
			server = hops->servers[i];
	return server;
}

/* The outer headers from `ip` on, which is the packet's version's bytes long; 0 if there is no such server */
static __always_inline int write_addresses(struct context *x, __u8 *ip, int v4, __u16 to)
{
	const struct member *here = &x->config->members[x->me & (SERVERS_MAX - 1)];
	const struct member *there = &x->config->members[to & (SERVERS_MAX - 1)];
	if (v4) {
		__builtin_memcpy(ip + 12, here->ip + 12, 4);
		__builtin_memcpy(ip + 16, there->ip + 12, 4);
	} else {
		__builtin_memcpy(ip + 8, here->ip, 16);
		__builtin_memcpy(ip + 24, there->ip, 16);
	}
	return there->port;
}

static __always_inline int is_v4(const struct member *member)
{
	const __u32 *words = (const __u32 *)member->ip;
	return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

/* Encapsulates the frame's packet and sends it to the first hop. */
static __always_inline int encapsulate(struct context *x, const struct packet *p, const struct hops *hops,
				       enum kind kind, enum reason reason, __u16 entropy)
{
	const struct config *config = x->config;
	const __u16 to = current_hop(hops);
	if (to == 0 || to >= SERVERS_MAX)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	const struct member *here = &config->members[x->me & (SERVERS_MAX - 1)];
	const struct member *there = &config->members[to & (SERVERS_MAX - 1)];
	const int v4 = is_v4(here);
	const __u32 outer = v4 ? 28 : 48, inner = p->end - p->start, l2 = p->start;
	if (!here->port || !there->port)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	if (inner + GUE_BYTES + outer > config->mtu)
		return p->protocol == 6 ? done(x, TCP_TOO_LARGE, XDP_DROP) : done(x, TOO_LARGE, XDP_PASS);
	if (v4 != is_v4(there))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	struct neighbour *n = neighbour_of(x, to);
	if (!n)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	/* Ethernet may have padded. */
	if (x->cursor.length != p->end && bpf_xdp_adjust_tail(x->xdp, (int)p->end - (int)x->cursor.length))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	__u8 ethernet[ETHERNET_MAX + 2];
	if (l2 < 14 || l2 > ETHERNET_MAX || bpf_xdp_load_bytes(x->xdp, 0, ethernet, 14))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	if (l2 > 14 && bpf_xdp_load_bytes(x->xdp, 14, ethernet + 14, l2 == 18 ? 4 : 8))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	if (bpf_xdp_adjust_head(x->xdp, -(int)(outer + GUE_BYTES)))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	void *data = (void *)(long)x->xdp->data, *end = (void *)(long)x->xdp->data_end;
	x->cursor.data = data;
	x->cursor.end = end;
	if (data + 14 > end)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	__builtin_memcpy(data, n->destination, 6);
	__builtin_memcpy(data + 6, n->source, 6);
	const __u16 kind_of_frame = v4 ? bpf_htons(0x0800) : bpf_htons(0x86dd);
	if (l2 == 14) {
		*(__u16 *)(data + 12) = kind_of_frame;
	} else if (l2 == 18) {
		if (data + 18 > end)
			return done(x, NO_NEIGHBOUR, XDP_DROP);
		__builtin_memcpy(data + 12, ethernet + 12, 4);
		*(__u16 *)(data + 16) = kind_of_frame;
	} else {
		if (data + 22 > end)
			return done(x, NO_NEIGHBOUR, XDP_DROP);
		__builtin_memcpy(data + 12, ethernet + 12, 8);
		*(__u16 *)(data + 20) = kind_of_frame;
	}
	__u8 *ip = at(&x->cursor, l2, 28 + GUE_BYTES);
	if (!ip)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	if (v4) {
		__u16 total = bpf_htons(inner + GUE_BYTES + 28);
		__builtin_memset(ip, 0, 20);
		ip[0] = 0x45;
		*(__u16 *)(ip + 2) = total;
		ip[6] = 0x40;
		ip[8] = 64;
		ip[9] = 17;
		write_addresses(x, ip, 1, to);
		header_checksum(ip);
	} else {
		if (!at(&x->cursor, l2, 48 + GUE_BYTES))
			return done(x, NO_NEIGHBOUR, XDP_DROP);
		*(__u32 *)ip = bpf_htonl(0x60000000);
		*(__u16 *)(ip + 4) = bpf_htons(inner + GUE_BYTES + UDP_BYTES);
		ip[6] = 17;
		ip[7] = 64;
		write_addresses(x, ip, 0, to);
	}
	__u8 *udp = at(&x->cursor, l2 + outer - UDP_BYTES, UDP_BYTES + GUE_BYTES);
	if (!udp)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	*(__u16 *)udp = bpf_htons(0xc000 | (entropy & 0x3fff));
	*(__u16 *)(udp + 2) = there->port;
	*(__u16 *)(udp + 4) = bpf_htons(inner + GUE_BYTES + UDP_BYTES);
	*(__u16 *)(udp + 6) = 0;
	__u8 *gue = udp + UDP_BYTES;
	gue[0] = 7;
	gue[1] = p->version == 4 ? 4 : 41;
	gue[2] = 1;
	gue[3] = config->encapsulation[0].id;
	gue[4] = kind;
	write_hops(gue, hops);
	*(__u16 *)(gue + 16) = bpf_htons(config->me.site);
	*(__u16 *)(gue + 18) = bpf_htons(config->me.server);
	*(__u32 *)(gue + 20) = bpf_htonl(config->epoch);
	__u64 mac;
	if (seal(&x->cursor, &config->encapsulation[0], l2 + outer, l2 + outer + GUE_BYTES + inner, &mac))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	*(__u64 *)(gue + SEALED_BYTES) = mac;
	return send_out(x, n, reason);
}

/* A packet that landed here */
static __always_inline int landed(struct context *x, const struct packet *p, const struct found *f)
{
	struct hops hops = {};
	const __u16 me = x->me;
	const struct node mine = x->config->me;
	__u16 entropy;
	__u64 hash;
	switch (f->subject) {
	case SUBJECT_PASS:
		return done(x, f->reason, XDP_PASS);
	case SUBJECT_DROP:
		return done(x, f->reason, XDP_DROP);
	case SUBJECT_FRAGMENT:
		hash = hash_fragment(x->config, &f->tuple, f->fragment);
		way(x, hash, CLASS_STATELESS, 0, &hops);
		if (!hops.count)
			return done(x, REASSEMBLED, XDP_PASS);
		return encapsulate(x, p, &hops, KIND_FRAGMENT, FRAGMENT, hash >> 48);
	case SUBJECT_RELAY:
		if (f->owner.site != mine.site)
			return done(x, OTHER_SITE, XDP_PASS);
		if (f->owner.server == me)
			return done(x, OWN_SLICE, XDP_PASS);
		push(&hops, f->owner.server);
		entropy = bpf_ntohs(f->tuple.client_port ^ f->tuple.service_port);
		return encapsulate(x, p, &hops, KIND_STEERED, SLICE, entropy);
	default:
		break;
	}
	const __u16 server = known(x, p, f);
	hash = hash_flow(x->config, &f->tuple);
	entropy = hash >> 48;
	if (server == me)
		return done(x, OWN_FLOW, XDP_PASS);
	if (server && spares(x->health, x->me_is_dead, me, server)) {
		push(&hops, server);
		return encapsulate(x, p, &hops, KIND_STEERED, KNOWN_FLOW, entropy);
	}
	if (f->class == CLASS_ICE && f->owner.site != mine.site)
		return done(x, OTHER_SITE, XDP_PASS);
	way(x, hash, f->class, f->owner.server, &hops);
	if (!hops.count)
		return done(x,
			    f->class == CLASS_MEMBER ? WAY_ENDS :
			    f->class == CLASS_ICE    ? OWN_FLOW :
						       OPENER,
			    XDP_PASS);
	return encapsulate(x, p, &hops, KIND_STEERED,
			   f->class == CLASS_ICE			      ? ICE :
			   f->class == CLASS_OPENER && hops.count > 1 ? OPENER_ASKS :
									      ROW,
			   entropy);
}

/* On to the next good hop; 0: there is none */
static __always_inline __u16 advance(struct context *x, struct hops *hops, int not_me)
{
	__u16 found = 0;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++) {
		__u16 server = hops->servers[i];
		if (found || i <= hops->index || i >= hops->count)
			continue;
		if (spares(x->health, x->me_is_dead, x->me, server) && !(not_me && server == x->me)) {
			hops->index = i;
			found = server;
		}
	}
	return found;
}

/* Takes the encapsulation off: the stack gets what is inside. */
static __always_inline int decapsulate(struct context *x, const struct packet *outer, __u32 inner,
				       const struct packet *p, enum reason reason)
{
	const __u32 l2 = outer->start;
	const int cut = inner - l2;
	__u8 ethernet[ETHERNET_MAX + 2];
	const __u16 kind = p->version == 4 ? bpf_htons(0x0800) : bpf_htons(0x86dd);
	if (l2 < 14 || l2 > ETHERNET_MAX || bpf_xdp_load_bytes(x->xdp, 0, ethernet, 14))
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	if (l2 > 14 && bpf_xdp_load_bytes(x->xdp, 14, ethernet + 14, l2 == 18 ? 4 : 8))
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	if (p->end != x->cursor.length && bpf_xdp_adjust_tail(x->xdp, (int)p->end - (int)x->cursor.length))
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	if (bpf_xdp_adjust_head(x->xdp, cut))
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	void *data = (void *)(long)x->xdp->data, *end = (void *)(long)x->xdp->data_end;
	if (l2 == 14) {
		if (data + 14 > end)
			return done(x, BAD_ENCAPSULATION, XDP_DROP);
		__builtin_memcpy(data, ethernet, 12);
		*(__u16 *)(data + 12) = kind;
	} else if (l2 == 18) {
		if (data + 18 > end)
			return done(x, BAD_ENCAPSULATION, XDP_DROP);
		__builtin_memcpy(data, ethernet, 16);
		*(__u16 *)(data + 16) = kind;
	} else {
		if (data + 22 > end)
			return done(x, BAD_ENCAPSULATION, XDP_DROP);
		__builtin_memcpy(data, ethernet, 20);
		*(__u16 *)(data + 20) = kind;
	}
	return done(x, reason, XDP_PASS);
}

/* Sends an encapsulated packet on, to the hop that `hops` points at. */
static __always_inline int forward(struct context *x, const struct packet *outer, __u32 header, __u32 end,
				   const struct hops *hops, __u32 epoch, enum reason reason)
{
	const struct config *config = x->config;
	const __u16 to = current_hop(hops);
	if (to == 0 || to >= SERVERS_MAX)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	const struct member *here = &config->members[x->me & (SERVERS_MAX - 1)];
	const struct member *there = &config->members[to & (SERVERS_MAX - 1)];
	const int v4 = is_v4(here);
	if (!here->port || !there->port || is_v4(there) != v4)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	struct neighbour *n = neighbour_of(x, to);
	__u8 *ethernet = at(&x->cursor, 0, 14), *ip = at(&x->cursor, outer->start, 40);
	__u8 *udp = at(&x->cursor, outer->body, UDP_BYTES), *gue = at(&x->cursor, header, GUE_BYTES);
	if (!n || !ethernet || !ip || !udp || !gue)
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	__builtin_memcpy(ethernet, n->destination, 6);
	__builtin_memcpy(ethernet + 6, n->source, 6);
	write_addresses(x, ip, v4, to);
	if (v4) {
		ip[8] = 64;
		*(__u16 *)(ip + 10) = 0;
		header_checksum(ip);
	} else {
		ip[7] = 64;
	}
	*(__u16 *)(udp + 2) = there->port;
	*(__u16 *)(udp + 6) = 0;
	gue[3] = config->encapsulation[0].id;
	*(__u32 *)(gue + 20) = bpf_htonl(epoch);
	write_hops(gue, hops);
	__u64 mac;
	if (seal(&x->cursor, &config->encapsulation[0], header, end, &mac))
		return done(x, NO_NEIGHBOUR, XDP_DROP);
	*(__u64 *)(gue + SEALED_BYTES) = mac;
	return send_out(x, n, reason);
}

/* Whether a server of the fleet sealed it */
static __always_inline int is_sealed(struct context *x, const __u8 *gue, __u32 header, __u32 end)
{
	const struct config *config = x->config;
	__u32 id = gue[3];
	__u64 expected, mac = *(__u64 *)(gue + SEALED_BYTES);
	const struct key *key = NULL;
#pragma unroll
	for (int i = 0; i < KEYS_MAX; i++)
		if (!key && i < config->encapsulation_count && config->encapsulation[i].id == id)
			key = &config->encapsulation[i];
	return key && !seal(&x->cursor, key, header, end, &expected) && expected == mac;
}

/* A packet that another server sent here */
static __always_inline int arrived(struct context *x, const struct packet *outer)
{
	const __u32 header = outer->body + UDP_BYTES, inner = header + GUE_BYTES;
	const struct config *config = x->config;
	const __u8 *kind = at(&x->cursor, header + 4, 1);
	if (kind && header + 5 <= outer->end && *kind >= KIND_RELAYED && *kind <= KIND_ALIVE)
		return done(x, BETWEEN_SERVERS, XDP_PASS);
	const struct address *sender = find(config, outer->source);
	if (!sender || !(sender->roles & ROLE_MEMBER))
		return done(x, STRANGER, XDP_DROP);
	const __u8 *gue = at(&x->cursor, header, GUE_BYTES), *first = at(&x->cursor, inner, 1);
	if (!gue || !first || inner >= outer->end)
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	struct hops hops = {};
	hops.count = gue[5] >> 4;
	hops.index = gue[5] & 15;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		hops.servers[i] = be16(gue + 6 + 2 * i);
	const __u8 expected = *first >> 4 == 4 ? 4 : *first >> 4 == 6 ? 41 : 59;
	if (gue[0] != 7 || gue[2] != 1 || gue[1] != expected || (gue[4] != KIND_STEERED && gue[4] != KIND_FRAGMENT) ||
	    hops.count > HOPS_MAX || (hops.index >= hops.count && (hops.count || hops.index)) ||
	    !is_sealed(x, gue, header, outer->end))
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	const __u16 me = x->me, landing = be16(gue + 18);
	const __u32 epoch = (__u32)be16(gue + 20) << 16 | be16(gue + 22);
	const int is_fragment = gue[4] == KIND_FRAGMENT;
	if (current_hop(&hops) != me)
		return done(x, WRONG_OWNER, XDP_DROP);
	struct packet p = {};
	if (expected == 4 ? parse_ipv4(&x->cursor, inner, outer->end, &p) :
	    expected == 41 ? parse_ipv6(&x->cursor, inner, outer->end, &p) : -1)
		return done(x, BAD_ENCAPSULATION, XDP_DROP);
	if (is_fragment)
		return decapsulate(x, outer, inner, &p, REASSEMBLED);
	struct found f = {};
	examine(x, &p, &f);
	const int newer = config->epoch - epoch - 1 < 0x7fffffff;
	struct hops own = {};
	if (f.subject == SUBJECT_RELAY) {
		if (f.owner.site == config->me.site && f.owner.server == me)
			return decapsulate(x, outer, inner, &p, OWN_SLICE);
		if (!newer || f.owner.site != config->me.site)
			return done(x, WRONG_OWNER, XDP_DROP);
		push(&own, f.owner.server);
	} else if (f.subject == SUBJECT_CLIENT) {
		if (known(x, &p, &f) == me)
			return decapsulate(x, outer, inner, &p, OWN_FLOW);
		if (f.class == CLASS_ICE && f.owner.site == config->me.site && f.owner.server == me)
			return decapsulate(x, outer, inner, &p, WAY_ENDS);
	} else {
		return done(x, WRONG_OWNER, XDP_DROP);
	}
	if (advance(x, &hops, 0))
		return forward(x, outer, header, p.end, &hops, epoch, NEXT_HOP);
	hops.index = hops.count - 1;
	if (newer) {
		if (f.subject == SUBJECT_CLIENT)
			way(x, hash_flow(config, &f.tuple), f.class, f.owner.server, &own);
#pragma unroll
		for (int i = 0; i < HOPS_MAX; i++) {
			__u16 server = own.servers[i];
			if (i < own.count && server != me && server != landing && !hold(&hops, server) &&
			    spares(x->health, x->me_is_dead, me, server))
				push(&hops, server);
		}
	}
	if (advance(x, &hops, 1))
		return forward(x, outer, header, p.end, &hops, config->epoch, NEWER_ROW);
	if (f.subject == SUBJECT_RELAY)
		return done(x, WRONG_OWNER, XDP_DROP);
	return decapsulate(x, outer, inner, &p, WAY_ENDS);
}

SEC("xdp.frags")
int trunkline_steer(struct xdp_md *xdp)
{
	__u32 zero = 0;
	struct context x = { .xdp = xdp };
	__u32 *slot = bpf_map_lookup_elem(&in_force, &zero);
	if (!slot || !*slot)
		return XDP_PASS;
	__u32 index = *slot - 1;
	x.config = bpf_map_lookup_elem(&configs, &index);
	x.health = bpf_map_lookup_elem(&healths, &zero);
	if (!x.config || !x.health)
		return XDP_PASS;
	x.cursor.data = (void *)(long)xdp->data;
	x.cursor.end = (void *)(long)xdp->data_end;
	x.cursor.length = bpf_xdp_get_buff_len(xdp);
	x.me = x.config->me.server;
	if (x.health->beat_ns != ~0ULL)
		x.me_is_dead = bpf_ktime_get_coarse_ns() > x.health->beat_ns + BEAT_WITHIN_NS;
	struct packet p = {};
	int failed = parse_frame(&x.cursor, &p);
	if (failed)
		return done(&x, -1 - failed, XDP_PASS);
	if (p.protocol == 17 && !p.is_fragment && x.me < SERVERS_MAX) {
		const struct member *here = &x.config->members[x.me & (SERVERS_MAX - 1)];
		const __u32 *ip = (const __u32 *)here->ip;
		const __u16 *ports = at(&x.cursor, p.body, 4);
		if (ports && p.body + UDP_BYTES <= p.end && here->port && ports[1] == here->port &&
		    ip[0] == p.destination[0] && ip[1] == p.destination[1] && ip[2] == p.destination[2] &&
		    ip[3] == p.destination[3])
			return arrived(&x, &p);
	}
	struct found f = {};
	examine(&x, &p, &f);
	return landed(&x, &p, &f);
}

/* On the far end of a virtual link: XDP_TX of the near end is delivered only if the far end runs a program as well. */
SEC("xdp.frags")
int trunkline_pass(struct xdp_md *xdp)
{
	return XDP_PASS;
}
