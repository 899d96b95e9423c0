/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The servers that a packet is sent to: `cores/steer/src/way.rs` in C. */
#pragma once

/* The hops of the row of `hash` from here, into `hops` or `own` */
__noinline int way(struct scratch *s, const struct config *config, const struct health *health, int class, int is_own)
{
	if (!s || !config || !health)
		return 0;
	const struct row *row = &config->rows[bounded(s->hash & config->row_mask, ROWS_MAX - 1)];
	struct hops *hops = is_own ? &s->own : &s->hops;
	const __u16 me = s->me;
	const __u16 takers[5] = { row->current, row->previous[0], row->previous[1], row->fallback[0], row->fallback[1] };
	__u16 taker = me, order[5] = { 0, 0, 0, 0, 0 };
	for (int i = 0; i < 5; i++) {
		if (spares(health, s->me_is_dead, me, takers[i])) {
			taker = takers[i];
			break;
		}
	}
	hops->count = 0;
	hops->index = 0;
	if (class == CLASS_OPENER) {
		order[0] = row->next == taker ? 0 : row->next;
		order[1] = row->previous[0] == taker ? 0 : row->previous[0];
		order[2] = row->previous[1] == taker ? 0 : row->previous[1];
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
