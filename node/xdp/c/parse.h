/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* From bytes to addresses, ports and fragments: `cores/steer/src/parse.rs` in C. */
#pragma once

#define HEADERS_BYTES_MAX 512
#define EXTENSIONS_MAX 4
#define OFFSET_MAX 4095

#define IS_V4(p) ((p)->version == 4)

/* An index that the verifier sees the bound of, wherever the compiler has put the check before it */
static __always_inline __u32 bounded(__u32 index, const __u32 mask)
{
	asm volatile("" : "+r"(index));
	return index & mask;
}

struct cursor {
	void *data, *end;
	__u32 length; /* of the whole frame, of which [data, end) may be the front */
};

struct packet {
	__u32 start, body, end;
	__u32 fragment;
	__u8 version, protocol, is_fragment, pad;
	__u32 source[4], destination[4];
};

/* `bytes` bytes at `offset`, or NULL */
static __always_inline void *at(const struct cursor *c, __u32 offset, const __u32 bytes)
{
	if (offset > OFFSET_MAX)
		return NULL;
	void *p = c->data + bounded(offset, OFFSET_MAX);
	return p + bytes > c->end ? NULL : p;
}

static __always_inline __u16 be16(const void *p)
{
	const __u8 *b = p;
	return (__u16)b[0] << 8 | b[1];
}

static __always_inline void mapped(__u32 *to, __u32 ip)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = ip;
}

static __always_inline void copy16(__u32 *to, const void *from)
{
	const __u32 *words = from;
	to[0] = words[0];
	to[1] = words[1];
	to[2] = words[2];
	to[3] = words[3];
}

/* `limit`: behind the last byte that may be the packet's */
static __always_inline int parse_ipv4(const struct cursor *c, __u32 start, __u32 limit, struct packet *out)
{
	const __u8 *h = at(c, start, 20);
	if (!h || start + 20 > limit)
		return -1;
	__u32 header = (h[0] & 15) * 4, total = be16(h + 2);
	if (h[0] >> 4 != 4 || header < 20 || header > total || start + total > limit)
		return -1;
	out->version = 4;
	out->protocol = h[9];
	out->is_fragment = (be16(h + 6) & 0x3fff) != 0;
	out->fragment = be16(h + 4);
	out->start = start;
	out->body = start + header;
	out->end = start + total;
	mapped(out->source, *(__u32 *)(h + 12));
	mapped(out->destination, *(__u32 *)(h + 16));
	return 0;
}

static __always_inline int parse_ipv6(const struct cursor *c, __u32 start, __u32 limit, struct packet *out)
{
	const __u8 *h = at(c, start, 40);
	if (!h || start + 40 > limit)
		return -1;
	__u32 total = be16(h + 4) + 40, body = start + 40, end = start + total;
	__u8 next = h[6];
	if (h[0] >> 4 != 6 || end > limit)
		return -1;
	out->version = 6;
	out->is_fragment = 0;
	out->fragment = 0;
	out->start = start;
	out->end = end;
	copy16(out->source, h + 8);
	copy16(out->destination, h + 24);
#pragma unroll
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 60)
			break;
		const __u8 *e = at(c, body, 8);
		if (!e || body + 8 > end)
			return -1;
		if (next == 44) {
			body += 8;
			next = e[0];
			if (be16(e + 2) & 0xfff9) {
				out->is_fragment = 1;
				out->fragment = (__u32)be16(e + 4) << 16 | be16(e + 6);
				break;
			}
		} else {
			next = e[0];
			body += (e[1] + 1) * 8;
		}
		if (body - start > HEADERS_BYTES_MAX)
			return -1;
	}
	if (body - start > HEADERS_BYTES_MAX || body > end)
		return -1;
	out->protocol = next;
	out->body = body;
	return 0;
}

/* 0, or minus one plus the reason: NOT_IP, MALFORMED */
static __always_inline int parse_frame(const struct cursor *c, struct packet *out)
{
	__u32 kind_at = 12;
#pragma unroll
	for (int i = 0; i <= 2; i++) {
		const __u8 *kind = at(c, kind_at, 2);
		if (!kind)
			return -1 - NOT_IP;
		switch (be16(kind)) {
		case 0x0800:
			return parse_ipv4(c, kind_at + 2, c->length, out) ? -1 - MALFORMED : 0;
		case 0x86dd:
			return parse_ipv6(c, kind_at + 2, c->length, out) ? -1 - MALFORMED : 0;
		case 0x8100:
		case 0x88a8:
			kind_at += 4;
			break;
		default:
			return -1 - NOT_IP;
		}
	}
	return -1 - NOT_IP;
}

struct quoted {
	__u32 source[4], destination[4];
	__u16 source_port, destination_port; /* big-endian */
	__u8 protocol;
};

/* What an ICMP error of this packet quotes: 0 if it is UDP or TCP of the same family, not a later fragment. */
static __always_inline int parse_quoted(const struct cursor *c, const struct packet *p, struct quoted *out)
{
	__u32 inner = p->body + 8, ports;
	const __u8 *kind = at(c, p->body, 1);
	if (!kind || p->body + 1 > p->end)
		return -1;
	if (p->protocol == 1 && (*kind == 3 || *kind == 11 || *kind == 12)) {
		const __u8 *h = at(c, inner, 20);
		if (!h || inner + 20 > p->end || h[0] >> 4 != 4 || (h[0] & 15) < 5 || be16(h + 6) & 0x1fff)
			return -1;
		ports = inner + (h[0] & 15) * 4;
		out->protocol = h[9];
		mapped(out->source, *(__u32 *)(h + 12));
		mapped(out->destination, *(__u32 *)(h + 16));
	} else if (p->protocol == 58 && *kind >= 1 && *kind <= 4) {
		const __u8 *h = at(c, inner, 40);
		if (!h || inner + 40 > p->end || h[0] >> 4 != 6)
			return -1;
		ports = inner + 40;
		out->protocol = h[6];
		copy16(out->source, h + 8);
		copy16(out->destination, h + 24);
	} else {
		return -1;
	}
	const __u16 *pair = at(c, ports, 4);
	if (!pair || ports + 4 > p->end || (out->protocol != 17 && out->protocol != 6))
		return -1;
	out->source_port = pair[0];
	out->destination_port = pair[1];
	return 0;
}
