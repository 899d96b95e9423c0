/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Whose packet it is: the first half of `cores/steer/src/steerer.rs` in C. */
#pragma once

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
