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

static __always_inline const struct address *find(const struct config *config, const __u32 *ip)
{
	__u32 slot = (ip[0] ^ ip[1] ^ ip[2] ^ ip[3]) * 0x9e3779b1u >> 21;
	for (int i = 0; i < 8; i++) {
		const struct address *address = &config->addresses[bounded(slot + i, ADDRESSES_MAX - 1)];
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
	return ports[bounded(port >> 6, 1023)] >> (port & 63) & 1;
}

/* The functions from here to the program are verified one by one, so none of them is `static`. */

/* The hash of a flow: protocol, client, service, big-endian, without gaps */
__noinline __u64 hash_flow(const struct config *config, const struct tuple *t)
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
__noinline __u64 hash_fragment(const struct config *config, const struct tuple *t, __u32 id)
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
static __always_inline void by_port(const struct config *config, const struct address *role, struct found *f)
{
	__u16 port = bpf_ntohs(f->tuple.service_port);
	f->subject = SUBJECT_PASS;
	f->reason = NOT_OURS;
	const __u64 *ports = f->tuple.protocol == 6 ? config->tcp_ports : config->udp_ports;
	if (role->roles & ROLE_SERVICE && has_port(ports, port)) {
		f->subject = SUBJECT_CLIENT;
	} else if (role->roles & ROLE_RELAY && port >= RELAY_PORT_MIN) {
		f->owner = config->slices[bounded(role->relay, RELAYS_MAX - 1)][bounded(port >> 10, SLICES - 1)];
		if (f->owner.site || f->owner.server)
			f->subject = SUBJECT_RELAY;
	}
}

/* What a packet to one of the anycast addresses is: the outer one, or the one inside; into `found` */
__noinline int examine(struct xdp_md *xdp, struct scratch *s, const struct config *config, int inside)
{
	if (!s || !config)
		return -1;
	const struct cursor cursor = cursor_of(xdp, s), *c = &cursor;
	const struct packet *p = inside ? &s->inner : &s->outer;
	struct found *f = &s->found;
	f->subject = SUBJECT_PASS;
	f->reason = NOT_OURS;
	f->class = CLASS_MEMBER;
	f->tcp = 0;
	const struct address *role = find(config, p->destination);
	if (!role || !(role->roles & (ROLE_SERVICE | ROLE_RELAY)))
		return 0;
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
		return 0;
	}
	if (p->protocol == 17 || p->protocol == 6) {
		const __u16 *ports = at(c, p->body, 4);
		if (!ports || p->end - p->body < (p->protocol == 17 ? UDP_BYTES : 20)) {
			f->reason = MALFORMED;
			return 0;
		}
		f->tuple.client_port = ports[0];
		f->tuple.service_port = ports[1];
		by_port(config, role, f);
		if (f->subject != SUBJECT_CLIENT)
			return 0;
		if (p->protocol == 17) {
			f->class = classify_datagram(c, config, p->body + UDP_BYTES, p->end, &f->owner);
			return 0;
		}
		const __u8 *tcp = at(c, p->body, 20);
		if (!tcp)
			return 0;
		f->tcp = p->body;
		f->class = (tcp[13] & 0x12) == 0x02 ? CLASS_OPENER : CLASS_MEMBER;
		return 0;
	}
	struct quoted q = {};
	if ((p->protocol != 1 && p->protocol != 58) || parse_quoted(c, p, &q))
		return 0;
	if (q.source[0] != p->destination[0] || q.source[1] != p->destination[1] ||
	    q.source[2] != p->destination[2] || q.source[3] != p->destination[3])
		return 0;
	f->tuple.protocol = q.protocol;
	copy16(f->tuple.client, q.destination);
	f->tuple.client_port = q.destination_port;
	f->tuple.service_port = q.source_port;
	by_port(config, role, f);
	return 0;
}

/* Whether a TCP segment is of a connection of this server, or answers a SYN cookie of its */
__noinline int tcp_is_ours(struct xdp_md *xdp, struct scratch *s, int inside)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size;
	int ours = 0;
	if (!s)
		return 0;
	const struct found *f = &s->found;
	const struct packet *p = inside ? &s->inner : &s->outer;
	const struct cursor c = cursor_of(xdp, s);
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
	struct bpf_sock *sk = bpf_skc_lookup_tcp(xdp, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	if (sk->state != BPF_TCP_LISTEN) {
		ours = 1;
	} else if (f->tcp) {
		struct tcphdr *tcp = at(&c, f->tcp, 20);
		void *ip = at(&c, p->start, 40);
		if (tcp && ip)
			ours = bpf_tcp_check_syncookie(sk, ip, p->version == 4 ? 20 : 40, tcp, 20) == 0;
	}
	bpf_sk_release(sk);
	return ours;
}

/* The server that is known to have a client's flow; 0: none */
static __always_inline __u16 known(struct xdp_md *xdp, struct scratch *s, int inside)
{
	const struct found *f = &s->found;
	if (f->tuple.protocol == 6)
		return tcp_is_ours(xdp, s, inside) ? s->me : 0;
	struct flow key = {};
	__builtin_memcpy(key.client, f->tuple.client, 16);
	__builtin_memcpy(key.service, f->tuple.service, 16);
	key.client_port = f->tuple.client_port;
	key.service_port = f->tuple.service_port;
	key.protocol = f->tuple.protocol;
	__u32 *server = bpf_map_lookup_elem(&flows, &key);
	return server ? *server : 0;
}

/* The hops of the row of `hash` from here, into `hops` or `own` */
__noinline int way(struct scratch *s, const struct config *config, const struct health *health, int class, int is_own)
{
	if (!s || !config || !health)
		return 0;
	const struct row *row = &config->rows[bounded(s->hash & config->row_mask, ROWS_MAX - 1)];
	struct hops *hops = is_own ? &s->own : &s->hops;
	const __u16 me = s->me;
	__u16 taker = me, order[5] = { 0, 0, 0, 0, 0 };
	if (spares(health, s->me_is_dead, me, row->current))
		taker = row->current;
	else if (spares(health, s->me_is_dead, me, row->fallback[0]))
		taker = row->fallback[0];
	else if (spares(health, s->me_is_dead, me, row->fallback[1]))
		taker = row->fallback[1];
	hops->count = 0;
	hops->index = 0;
	if (class == CLASS_OPENER) {
		order[0] = row->previous[0] == taker ? 0 : row->previous[0];
		order[1] = row->previous[1] == taker ? 0 : row->previous[1];
	} else if (class == CLASS_STATELESS) {
		order[0] = taker;
	} else if (class == CLASS_ICE) {
		order[0] = s->found.owner.server;
	} else {
		order[0] = taker;
		order[1] = row->previous[0];
		order[2] = row->previous[1];
		order[3] = row->next;
		order[4] = row->fallback[0];
	}
	for (int i = 0; i < HOPS_MAX; i++) {
		__u16 server = order[i];
		if (server != me && spares(health, s->me_is_dead, me, server) && !hold(hops, server))
			push(hops, server);
	}
	if (class == CLASS_OPENER && (taker != me || hops->count))
		push(hops, taker);
	return hops->count;
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

/* The MAC over a header and the front of the packet behind it, into `mac`; -1 if there is not enough of it */
__noinline int seal(struct xdp_md *xdp, struct scratch *s, const struct key *key, __u32 header, __u32 end)
{
	if (!s || !key)
		return -1;
	__builtin_memset(&s->sealed, 0, sizeof(s->sealed));
	const struct cursor cursor = cursor_of(xdp, s), *c = &cursor;
	const __u8 *h = at(c, header, SEALED_BYTES);
	const __u32 inner = header + GUE_BYTES;
	if (!h)
		return -1;
	__builtin_memcpy(s->sealed.bytes, h, SEALED_BYTES);
	const int v4 = h[1] == 4;
	const __u32 whole = v4 ? 20 : 40;
	const __u8 *front = at(c, inner, 44);
	if (v4 && (front || (front = at(c, inner, 24))) && inner + 24 <= end) {
		__builtin_memcpy(s->sealed.bytes + SEALED_BYTES, front, 24);
	} else if (!v4 && front && inner + 44 <= end) {
		__builtin_memcpy(s->sealed.bytes + SEALED_BYTES, front, 44);
	} else {
		/* Its ports are not all there: byte by byte what is. */
		if (inner + whole > end)
			return -1;
		for (__u32 i = 0; i < 44; i++) {
			const __u8 *b = at(c, inner + i, 1);
			if (!b || i >= whole + 4 || inner + i >= end)
				break;
			s->sealed.bytes[SEALED_BYTES + i] = *b;
		}
	}
	if (v4) {
		s->sealed.words[6] = 48ULL << 56;
		s->mac = siphash(key->secret, s->sealed.words, 7);
	} else {
		s->sealed.words[8] |= 68ULL << 56;
		s->mac = siphash(key->secret, s->sealed.words, 9);
	}
	return 0;
}

/* Finds the Ethernet addresses of the way to a server */
static __always_inline struct neighbour *neighbour_of(struct xdp_md *xdp, struct scratch *s, const struct config *config,
						      __u16 server)
{
	__u32 index = server;
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, &index);
	if (!n || n->good_until_ns == ~0ULL)
		return n;
	__u64 now = bpf_ktime_get_coarse_ns();
	if (now < n->good_until_ns)
		return n;
	const struct member *from = &config->members[bounded(s->me, SERVERS_MAX - 1)];
	const struct member *to = &config->members[bounded(server, SERVERS_MAX - 1)];
	struct bpf_fib_lookup *fib = &s->fib;
	__builtin_memset(fib, 0, sizeof(*fib));
	const __u32 *source = (const __u32 *)from->ip, *destination = (const __u32 *)to->ip;
	fib->ifindex = xdp->ingress_ifindex;
	fib->l4_protocol = 17;
	if (destination[0] == 0 && destination[1] == 0 && destination[2] == bpf_htonl(0xffff)) {
		fib->family = 2;
		fib->ipv4_src = source[3];
		fib->ipv4_dst = destination[3];
	} else {
		fib->family = 10;
		copy16(fib->ipv6_src, source);
		copy16(fib->ipv6_dst, destination);
	}
	if (bpf_fib_lookup(xdp, fib, sizeof(*fib), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS)
		return NULL;
	n->interface = fib->ifindex;
	__builtin_memcpy(n->destination, fib->dmac, 6);
	__builtin_memcpy(n->source, fib->smac, 6);
	n->good_until_ns = now + NEIGHBOUR_GOOD_NS;
	return n;
}

static __always_inline int send_out(struct xdp_md *xdp, const struct scratch *s, const struct neighbour *n,
				    enum reason reason)
{
	if (!n->interface || n->interface == xdp->ingress_ifindex)
		return done(s, reason, XDP_TX);
	return done(s, reason, bpf_redirect(n->interface, 0));
}

static __always_inline void write_hops(__u8 *gue, const struct hops *hops)
{
	gue[5] = hops->count << 4 | hops->index;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		*(__u16 *)(gue + 6 + 2 * i) = i < hops->count ? bpf_htons(hops->servers[i]) : 0;
}

static __always_inline __u16 current_hop(const struct hops *hops)
{
	return hops->index < hops->count ? hops->servers[bounded(hops->index, 7)] : 0;
}

static __always_inline int is_v4(const struct member *member)
{
	const __u32 *words = (const __u32 *)member->ip;
	return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

/* The IP and UDP headers around `payload` bytes, from `l2` on; the UDP header, or NULL if there is no room */
static __always_inline __u8 *write_outer(const struct cursor *c, __u32 l2, const struct member *here,
					 const struct member *there, __u32 payload, __u16 source_port)
{
	__u8 *ip, *udp;
	if (is_v4(here)) {
		ip = at(c, l2, 28);
		if (!ip)
			return NULL;
		__builtin_memset(ip, 0, 20);
		ip[0] = 0x45;
		*(__u16 *)(ip + 2) = bpf_htons(payload + 28);
		ip[6] = 0x40;
		ip[8] = 64;
		ip[9] = 17;
		__builtin_memcpy(ip + 12, here->ip + 12, 4);
		__builtin_memcpy(ip + 16, there->ip + 12, 4);
		header_checksum(ip);
		udp = ip + 20;
	} else {
		ip = at(c, l2, 48);
		if (!ip)
			return NULL;
		*(__u32 *)ip = bpf_htonl(0x60000000);
		*(__u16 *)(ip + 4) = bpf_htons(payload + UDP_BYTES);
		ip[6] = 17;
		ip[7] = 64;
		__builtin_memcpy(ip + 8, here->ip, 16);
		__builtin_memcpy(ip + 24, there->ip, 16);
		udp = ip + 40;
	}
	*(__u16 *)udp = source_port;
	*(__u16 *)(udp + 2) = there->port;
	*(__u16 *)(udp + 4) = bpf_htons(payload + UDP_BYTES);
	*(__u16 *)(udp + 6) = 0;
	return udp;
}

/* Keeps the Ethernet header and its tags before the frame's front moves. */
static __always_inline int save_ethernet(struct xdp_md *xdp, struct scratch *s, __u32 bytes)
{
	if (bytes != 14 && bytes != 18 && bytes != 22)
		return -1;
	if (bpf_xdp_load_bytes(xdp, 0, s->ethernet, 14))
		return -1;
	return bytes > 14 ? bpf_xdp_load_bytes(xdp, 14, s->ethernet + 14, bytes == 18 ? 4 : 8) : 0;
}

/* Puts it in front again, with the ethertype of what follows. */
static __always_inline int restore_ethernet(struct xdp_md *xdp, const struct scratch *s, __u32 bytes, int v4)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	const __u16 kind = v4 ? bpf_htons(0x0800) : bpf_htons(0x86dd);
	if (data + 14 > end)
		return -1;
	__builtin_memcpy(data, s->ethernet, 12);
	if (bytes == 14) {
		*(__u16 *)(data + 12) = kind;
	} else if (bytes == 18) {
		if (data + 18 > end)
			return -1;
		__builtin_memcpy(data + 12, s->ethernet + 12, 4);
		*(__u16 *)(data + 16) = kind;
	} else {
		if (data + 22 > end)
			return -1;
		__builtin_memcpy(data + 12, s->ethernet + 12, 8);
		*(__u16 *)(data + 20) = kind;
	}
	return 0;
}

/* Encapsulates the frame's packet and sends it to the first of `hops`. */
__noinline int encapsulate(struct xdp_md *xdp, struct scratch *s, const struct config *config, int reason)
{
	if (!s || !config)
		return XDP_DROP;
	const struct packet *p = &s->outer;
	const __u16 to = current_hop(&s->hops);
	if (to == 0 || to >= SERVERS_MAX)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct member *here = &config->members[bounded(s->me, SERVERS_MAX - 1)];
	const struct member *there = &config->members[bounded(to, SERVERS_MAX - 1)];
	const int v4 = is_v4(here), inner_v4 = p->version == 4;
	const __u32 outer = v4 ? 28 : 48, inner = p->end - p->start, l2 = p->start;
	if (!here->port || !there->port)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	if (inner + GUE_BYTES + outer > config->mtu)
		return p->protocol == 6 ? done(s, TCP_TOO_LARGE, XDP_DROP) : done(s, TOO_LARGE, XDP_PASS);
	if (v4 != is_v4(there))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	struct neighbour *n = neighbour_of(xdp, s, config, to);
	/* Ethernet may have padded. */
	if (!n || (s->length != p->end && bpf_xdp_adjust_tail(xdp, (int)p->end - (int)s->length)) ||
	    save_ethernet(xdp, s, l2) || bpf_xdp_adjust_head(xdp, -(int)(outer + GUE_BYTES)))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	__builtin_memcpy(s->ethernet, n->destination, 6);
	__builtin_memcpy(s->ethernet + 6, n->source, 6);
	if (restore_ethernet(xdp, s, l2, v4))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct cursor c = cursor_of(xdp, s);
	if (!write_outer(&c, l2, here, there, inner + GUE_BYTES, bpf_htons(0xc000 | (s->entropy & 0x3fff))))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	__u8 *gue = at(&c, l2 + outer, GUE_BYTES);
	if (!gue)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	gue[0] = 7;
	gue[1] = inner_v4 ? 4 : 41;
	gue[2] = 1;
	gue[3] = config->encapsulation[0].id;
	gue[4] = s->kind;
	write_hops(gue, &s->hops);
	*(__u16 *)(gue + 16) = bpf_htons(config->me.site);
	*(__u16 *)(gue + 18) = bpf_htons(config->me.server);
	*(__u32 *)(gue + 20) = bpf_htonl(config->epoch);
	if (seal(xdp, s, &config->encapsulation[0], l2 + outer, l2 + outer + GUE_BYTES + inner))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct cursor again = cursor_of(xdp, s);
	__u64 *mac = at(&again, l2 + outer + SEALED_BYTES, 8);
	if (!mac)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	*mac = s->mac;
	return send_out(xdp, s, n, reason);
}

/* A packet that landed here */
__noinline int landed(struct xdp_md *xdp, struct scratch *s, const struct config *config, const struct health *health)
{
	if (!s || !config || !health)
		return XDP_PASS;
	const struct found *f = &s->found;
	const __u16 me = s->me, site = config->me.site;
	s->hops.count = 0;
	s->hops.index = 0;
	s->kind = KIND_STEERED;
	if (f->subject == SUBJECT_PASS)
		return done(s, f->reason, XDP_PASS);
	if (f->subject == SUBJECT_DROP)
		return done(s, f->reason, XDP_DROP);
	if (f->subject == SUBJECT_FRAGMENT) {
		s->hash = hash_fragment(config, &f->tuple, f->fragment);
		s->entropy = s->hash >> 48;
		s->kind = KIND_FRAGMENT;
		if (!way(s, config, health, CLASS_STATELESS, 0))
			return done(s, REASSEMBLED, XDP_PASS);
		return encapsulate(xdp, s, config, FRAGMENT);
	}
	if (f->subject == SUBJECT_RELAY) {
		if (f->owner.site != site)
			return done(s, OTHER_SITE, XDP_PASS);
		if (f->owner.server == me)
			return done(s, OWN_SLICE, XDP_PASS);
		push(&s->hops, f->owner.server);
		s->entropy = bpf_ntohs(f->tuple.client_port ^ f->tuple.service_port);
		return encapsulate(xdp, s, config, SLICE);
	}
	const __u16 server = known(xdp, s, 0);
	if (server == me)
		return done(s, OWN_FLOW, XDP_PASS);
	s->hash = hash_flow(config, &f->tuple);
	s->entropy = s->hash >> 48;
	if (server && spares(health, s->me_is_dead, me, server)) {
		push(&s->hops, server);
		return encapsulate(xdp, s, config, KNOWN_FLOW);
	}
	if (f->class == CLASS_ICE && f->owner.site != site)
		return done(s, OTHER_SITE, XDP_PASS);
	const int hops = way(s, config, health, f->class, 0);
	if (!hops)
		return done(s,
			    f->class == CLASS_MEMBER ? WAY_ENDS :
			    f->class == CLASS_ICE    ? OWN_FLOW :
						       OPENER,
			    XDP_PASS);
	return encapsulate(xdp, s, config,
			   f->class == CLASS_ICE		    ? ICE :
			   f->class == CLASS_OPENER && hops > 1 ? OPENER_ASKS :
								    ROW);
}

/* On to the next good hop; 0: there is none */
__noinline int advance(struct scratch *s, const struct health *health, int not_me)
{
	if (!s || !health)
		return 0;
	for (int i = 0; i < HOPS_MAX; i++) {
		const __u16 server = s->hops.servers[i];
		if (i > s->hops.index && i < s->hops.count && !(not_me && server == s->me) &&
		    spares(health, s->me_is_dead, s->me, server)) {
			s->hops.index = i;
			return server;
		}
	}
	return 0;
}

/* Takes the encapsulation off: the stack gets what is inside. */
__noinline int decapsulate(struct xdp_md *xdp, struct scratch *s, int reason)
{
	if (!s)
		return XDP_DROP;
	const struct packet *p = &s->inner;
	const __u32 l2 = s->outer.start, cut = p->start - l2;
	if (cut > OFFSET_MAX || save_ethernet(xdp, s, l2) ||
	    (p->end != s->length && bpf_xdp_adjust_tail(xdp, (int)p->end - (int)s->length)) ||
	    bpf_xdp_adjust_head(xdp, cut) || restore_ethernet(xdp, s, l2, p->version == 4))
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	return done(s, reason, XDP_PASS);
}

/* Sends an encapsulated packet on, to the hop that `hops` points at. */
__noinline int forward(struct xdp_md *xdp, struct scratch *s, const struct config *config, int reason)
{
	if (!s || !config)
		return XDP_DROP;
	const __u16 to = current_hop(&s->hops);
	const __u32 header = s->outer.body + UDP_BYTES;
	if (to == 0 || to >= SERVERS_MAX)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct member *here = &config->members[bounded(s->me, SERVERS_MAX - 1)];
	const struct member *there = &config->members[bounded(to, SERVERS_MAX - 1)];
	const int v4 = is_v4(here);
	struct neighbour *n = neighbour_of(xdp, s, config, to);
	/* Ethernet may have padded. */
	if (!n || !here->port || !there->port || is_v4(there) != v4 ||
	    (s->length != s->inner.end && bpf_xdp_adjust_tail(xdp, (int)s->inner.end - (int)s->length)))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct cursor c = cursor_of(xdp, s);
	__u8 *ethernet = at(&c, 0, 14), *udp = at(&c, s->outer.body, UDP_BYTES);
	if (!ethernet || !udp)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	__builtin_memcpy(ethernet, n->destination, 6);
	__builtin_memcpy(ethernet + 6, n->source, 6);
	if (!write_outer(&c, s->outer.start, here, there, s->inner.end - header, *(__u16 *)udp))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	__u8 *gue = at(&c, header, GUE_BYTES);
	if (!gue)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	gue[3] = config->encapsulation[0].id;
	*(__u32 *)(gue + 20) = bpf_htonl(s->epoch);
	write_hops(gue, &s->hops);
	if (seal(xdp, s, &config->encapsulation[0], header, s->inner.end))
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	const struct cursor again = cursor_of(xdp, s);
	__u64 *mac = at(&again, header + SEALED_BYTES, 8);
	if (!mac)
		return done(s, NO_NEIGHBOUR, XDP_DROP);
	*mac = s->mac;
	return send_out(xdp, s, n, reason);
}

/* Opens an encapsulated packet, into `hops` and `inner`: an action where that ends it, else -1 */
__noinline int open(struct xdp_md *xdp, struct scratch *s, const struct config *config)
{
	if (!s || !config)
		return XDP_DROP;
	const struct packet *outer = &s->outer;
	const __u32 header = outer->body + UDP_BYTES, inner = header + GUE_BYTES;
	const struct cursor cursor = cursor_of(xdp, s), *c = &cursor;
	const __u8 *kind = at(c, header + 4, 1);
	if (kind && header + 5 <= outer->end && *kind >= KIND_RELAYED && *kind <= KIND_ALIVE)
		return done(s, BETWEEN_SERVERS, XDP_PASS);
	const struct address *sender = find(config, outer->source);
	if (!sender || !(sender->roles & ROLE_MEMBER))
		return done(s, STRANGER, XDP_DROP);
	const __u8 *gue = at(c, header, GUE_BYTES), *first = at(c, inner, 1);
	if (!gue || !first || inner >= outer->end)
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	struct hops *hops = &s->hops;
	hops->count = gue[5] >> 4;
	hops->index = gue[5] & 15;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		hops->servers[i] = be16(gue + 6 + 2 * i);
	const __u8 version = *first >> 4, id = gue[3];
	const __u64 mac = *(__u64 *)(gue + SEALED_BYTES);
	s->kind = gue[4];
	s->epoch = (__u32)be16(gue + 20) << 16 | be16(gue + 22);
	s->found.landing = be16(gue + 18);
	if (gue[0] != 7 || gue[2] != 1 || gue[1] != (version == 4 ? 4 : version == 6 ? 41 : 59) ||
	    (s->kind != KIND_STEERED && s->kind != KIND_FRAGMENT) || hops->count > HOPS_MAX ||
	    (hops->index >= hops->count && (hops->count || hops->index)))
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	const struct key *key = NULL;
	for (int i = 0; i < KEYS_MAX; i++)
		if (!key && i < config->encapsulation_count && config->encapsulation[i].id == id)
			key = &config->encapsulation[i];
	if (!key || seal(xdp, s, key, header, outer->end) || s->mac != mac)
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	if (current_hop(hops) != s->me)
		return done(s, WRONG_OWNER, XDP_DROP);
	const struct cursor again = cursor_of(xdp, s);
	if (version == 4 ? parse_ipv4(&again, inner, outer->end, &s->inner) :
	    version == 6 ? parse_ipv6(&again, inner, outer->end, &s->inner) :
				  -1)
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	/* What is encapsulated is one packet, and nothing behind it. */
	const __u8 *udp = at(&again, outer->body, UDP_BYTES);
	if (outer->body - outer->start != (outer->version == 4 ? 20 : 40) || !udp || be16(udp + 4) != outer->end - outer->body || s->inner.end != outer->end)
		return done(s, BAD_ENCAPSULATION, XDP_DROP);
	return -1;
}

/* A packet that another server sent here, which `open` has opened and `examine` has looked at */
__noinline int arrived(struct xdp_md *xdp, struct scratch *s, const struct config *config, const struct health *health)
{
	if (!s || !config || !health)
		return XDP_DROP;
	const struct found *f = &s->found;
	const __u16 me = s->me;
	const int newer = config->epoch - s->epoch - 1 < 0x7fffffff;
	const int is_relay = f->subject == SUBJECT_RELAY;
	s->own.count = 0;
	s->own.index = 0;
	if (is_relay) {
		if (f->owner.site == config->me.site && f->owner.server == me)
			return decapsulate(xdp, s, OWN_SLICE);
		if (!newer || f->owner.site != config->me.site)
			return done(s, WRONG_OWNER, XDP_DROP);
		push(&s->own, f->owner.server);
	} else if (f->subject == SUBJECT_CLIENT) {
		if (known(xdp, s, 1) == me)
			return decapsulate(xdp, s, OWN_FLOW);
		if (f->class == CLASS_ICE && f->owner.site == config->me.site && f->owner.server == me)
			return decapsulate(xdp, s, WAY_ENDS);
	} else {
		return done(s, WRONG_OWNER, XDP_DROP);
	}
	if (advance(s, health, 0))
		return forward(xdp, s, config, NEXT_HOP);
	s->hops.index = s->hops.count - 1;
	if (newer) {
		if (!is_relay) {
			s->hash = hash_flow(config, &f->tuple);
			way(s, config, health, f->class, 1);
		}
		for (int i = 0; i < HOPS_MAX; i++) {
			const __u16 server = s->own.servers[i];
			if (i < s->own.count && server != me && server != f->landing && !hold(&s->hops, server) &&
			    spares(health, s->me_is_dead, me, server))
				push(&s->hops, server);
		}
	}
	if (advance(s, health, 1)) {
		s->epoch = config->epoch;
		return forward(xdp, s, config, NEWER_ROW);
	}
	return is_relay ? done(s, WRONG_OWNER, XDP_DROP) : decapsulate(xdp, s, WAY_ENDS);
}

/* Whether the packet is encapsulated and for this server */
static __always_inline int is_encapsulated(struct xdp_md *xdp, const struct scratch *s, const struct config *config)
{
	const struct packet *p = &s->outer;
	const struct cursor c = cursor_of(xdp, s);
	const struct member *here = &config->members[bounded(s->me, SERVERS_MAX - 1)];
	const __u32 *ip = (const __u32 *)here->ip;
	const __u16 *ports = at(&c, p->body, 4);
	return p->protocol == 17 && !p->is_fragment && ports && p->body + UDP_BYTES <= p->end && here->port &&
	       ports[1] == here->port && ip[0] == p->destination[0] && ip[1] == p->destination[1] &&
	       ip[2] == p->destination[2] && ip[3] == p->destination[3];
}

__noinline int parse(struct xdp_md *xdp, struct scratch *s)
{
	if (!s)
		return -1;
	const struct cursor c = cursor_of(xdp, s);
	return parse_frame(&c, &s->outer);
}

SEC("xdp.frags")
int trunkline_steer(struct xdp_md *xdp)
{
	__u32 zero = 0;
	__u32 *slot = bpf_map_lookup_elem(&in_force, &zero);
	if (!slot || !*slot)
		return XDP_PASS;
	__u32 index = *slot - 1;
	const struct config *config = bpf_map_lookup_elem(&configs, &index);
	const struct health *health = bpf_map_lookup_elem(&healths, &zero);
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	if (!config || !health || !s)
		return XDP_PASS;
	s->length = bpf_xdp_get_buff_len(xdp);
	s->me = config->me.server;
	s->me_is_dead =
		health->beat_ns != ~0ULL && bpf_ktime_get_coarse_ns() > health->beat_ns + BEAT_WITHIN_NS;
	const int failed = parse(xdp, s);
	if (failed)
		return done(s, -1 - failed, XDP_PASS);
	if (!is_encapsulated(xdp, s, config)) {
		examine(xdp, s, config, 0);
		return landed(xdp, s, config, health);
	}
	const int ended = open(xdp, s, config);
	if (ended >= 0)
		return ended;
	if (s->kind == KIND_FRAGMENT)
		return decapsulate(xdp, s, REASSEMBLED);
	examine(xdp, s, config, 1);
	return arrived(xdp, s, config, health);
}

/* On the far end of a virtual link: XDP_TX of the near end is delivered only if the far end runs a program as well. */
SEC("xdp.frags")
int trunkline_pass(struct xdp_md *xdp)
{
	return XDP_PASS;
}
