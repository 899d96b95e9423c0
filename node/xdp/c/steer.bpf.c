/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The flow steerer: to which server of the site a packet belongs, in the kernel, before its stack.
 *
 * `cores/steer` says the same in Rust and is the reference: a test compares verdicts and bytes over millions of packets.
 * Order of decisions: is it encapsulated for us; is it for an anycast address; whose is its slice, its flow, its row.
 *
 * Functions that are `__noinline` and not `static` are verified one by one: in one piece the program is too large. */
#include <linux/bpf.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer.h"
#include "siphash.h"
#include "parse.h"
#include "classify.h"
#include "hops.h"
#include "maps.h"
#include "subject.h"
#include "way.h"
#include "send.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

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

static __always_inline int steer(struct xdp_md *xdp)
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

SEC("xdp.frags")
int trunkline_steer(struct xdp_md *xdp)
{
	return steer(xdp);
}

/* For the benchmark, which runs it over one IPv4 frame again and again: what was put in front is taken off. */
SEC("xdp.frags")
int trunkline_measure(struct xdp_md *xdp)
{
	const int action = steer(xdp);
	if (action != XDP_TX || bpf_xdp_adjust_head(xdp, 28 + GUE_BYTES))
		return action;
	__u16 *ethernet = (void *)(long)xdp->data;
	if ((void *)(ethernet + 7) <= (void *)(long)xdp->data_end)
		ethernet[6] = bpf_htons(0x0800);
	return action;
}

/* On the far end of a virtual link: XDP_TX of the near end is delivered only if the far end runs a program as well. */
SEC("xdp.frags")
int trunkline_pass(struct xdp_md *xdp)
{
	return XDP_PASS;
}
