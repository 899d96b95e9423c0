/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Encapsulated packets: made, sent on, opened up. Their bytes are those of `cores/wire/src/gue`. */
#pragma once

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
		s->sealed.words[8] = 0;
		__builtin_memcpy(s->sealed.bytes + SEALED_BYTES, front, 44);
	} else {
		/* Its ports are not all there: byte by byte what is. */
		if (inner + whole > end)
			return -1;
		__builtin_memset(s->sealed.bytes + SEALED_BYTES, 0, sizeof(s->sealed) - SEALED_BYTES);
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
	const void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	if (data + 14 > end)
		return -1;
	__builtin_memcpy(s->ethernet, data, 14);
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
