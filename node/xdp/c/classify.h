/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What a client's datagram is: `cores/steer/src/classify.rs` in C. */
#pragma once

enum class { CLASS_OPENER, CLASS_STATELESS, CLASS_ICE, CLASS_MEMBER };

#define UFRAG_CHARS 16
#define ATTRIBUTES_MAX 4

/* The six bits of a character of base64; 64 if it is none */
static __always_inline __u32 six_bits(__u8 c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : 64;
}

/* The server that a username fragment names, if a server of the fleet made it */
static __always_inline int open_ufrag(const struct config *config, const __u8 *text, struct node *out)
{
	union {
		__u8 bytes[16];
		__u64 words[2];
	} sealed = {};
	if (!config || !text || !out)
		return -1;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 a = six_bits(text[4 * i]), b = six_bits(text[4 * i + 1]);
		__u32 c = six_bits(text[4 * i + 2]), d = six_bits(text[4 * i + 3]);
		if ((a | b | c | d) & 64)
			return -1;
		sealed.bytes[3 * i] = a << 2 | b >> 4;
		sealed.bytes[3 * i + 1] = b << 4 | c >> 2;
		sealed.bytes[3 * i + 2] = c << 6 | d;
	}
	const __u64 words[2] = { sealed.words[0], 8ULL << 56 };
	const __u32 tag = sealed.words[1];
#pragma unroll
	for (int i = 0; i < KEYS_MAX; i++) {
		const struct key *key = &config->ufrag[i];
		if (i >= config->ufrag_count || key->id != sealed.bytes[0])
			continue;
		if ((__u32)siphash(key->secret, words, 2) != tag)
			return -1;
		out->site = (__u16)sealed.bytes[1] << 8 | sealed.bytes[2];
		out->server = (__u16)sealed.bytes[3] << 8 | sealed.bytes[4];
		return 0;
	}
	return -1;
}

static __always_inline enum class classify_stun(const struct cursor *c, const struct config *config, __u32 start,
						__u32 end, struct node *owner)
{
	const __u8 *h = at(c, start, 20);
	if (!h || start + 20 > end || *(__u32 *)(h + 4) != bpf_htonl(0x2112a442))
		return CLASS_MEMBER;
	__u16 type = be16(h);
	if (type == 0x0003)
		return CLASS_OPENER;
	if (type != 0x0001)
		return CLASS_MEMBER;
	__u32 place = start + 20;
	for (int i = 0; i < ATTRIBUTES_MAX; i++) {
		const __u8 *attribute = at(c, place, 4);
		if (!attribute || place + 4 > end)
			return CLASS_STATELESS;
		__u32 length = be16(attribute + 2);
		if (be16(attribute) == 0x0006) {
			const __u8 *name = at(c, place + 4, UFRAG_CHARS + 1);
			if (!name || place + 4 + UFRAG_CHARS + 1 > end || length <= UFRAG_CHARS ||
			    name[UFRAG_CHARS] != ':')
				return CLASS_STATELESS;
			__u8 text[UFRAG_CHARS];
			__builtin_memcpy(text, name, UFRAG_CHARS);
			return open_ufrag(config, text, owner) ? CLASS_STATELESS : CLASS_ICE;
		}
		place += 4 + ((length + 3) & ~3);
	}
	return CLASS_STATELESS;
}

static __always_inline enum class classify_datagram(const struct cursor *c, const struct config *config, __u32 start,
						    __u32 end, struct node *owner)
{
	const __u8 *first = at(c, start, 1);
	if (!first || start >= end)
		return CLASS_MEMBER;
	if (*first <= 3)
		return classify_stun(c, config, start, end, owner);
	if (*first == 22) {
		const __u8 *handshake = at(c, start + 13, 1);
		return handshake && start + 13 < end && *handshake == 1 ? CLASS_OPENER : CLASS_MEMBER;
	}
	return CLASS_MEMBER;
}
