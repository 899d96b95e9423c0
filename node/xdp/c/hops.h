/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A list of servers, in the order in which they are asked. */
#pragma once

struct hops {
	__u16 servers[8]; /* HOPS_MAX of them; the power of two bounds an index */
	__u16 count, index;
};

static __always_inline int spares(const struct health *health, int me_is_dead, __u16 me, __u16 server)
{
	if (server == 0 || server >= SERVERS_MAX)
		return 0;
	if (server == me)
		return !me_is_dead;
	return !health->is_dead[bounded(server, SERVERS_MAX - 1)];
}

static __always_inline int hold(const struct hops *hops, __u16 server)
{
	int found = 0;
#pragma unroll
	for (int i = 0; i < HOPS_MAX; i++)
		found |= i < hops->count && hops->servers[i] == server;
	return found;
}

static __always_inline void push(struct hops *hops, __u16 server)
{
	__u32 count = hops->count;
	if (count < HOPS_MAX) {
#pragma unroll
		for (int i = 0; i < HOPS_MAX; i++)
			if (i == count)
				hops->servers[i] = server;
		hops->count = count + 1;
	}
}
