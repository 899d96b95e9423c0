/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* SipHash-2-4 over whole words; the caller puts the last bytes and the length into the last word. */
#pragma once

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIP_ROUND                                                                          \
	do {                                                                               \
		v0 += v1; v1 = ROTATE(v1, 13); v1 ^= v0; v0 = ROTATE(v0, 32);               \
		v2 += v3; v3 = ROTATE(v3, 16); v3 ^= v2;                                    \
		v0 += v3; v3 = ROTATE(v3, 21); v3 ^= v0;                                    \
		v2 += v1; v1 = ROTATE(v1, 17); v1 ^= v2; v2 = ROTATE(v2, 32);               \
	} while (0)

static __always_inline __u64 siphash(const __u64 *key, const __u64 *words, const int count)
{
	__u64 v0 = key[0] ^ 0x736f6d6570736575ULL, v1 = key[1] ^ 0x646f72616e646f6dULL;
	__u64 v2 = key[0] ^ 0x6c7967656e657261ULL, v3 = key[1] ^ 0x7465646279746573ULL;
#pragma unroll
	for (int i = 0; i < count; i++) {
		v3 ^= words[i];
		SIP_ROUND;
		SIP_ROUND;
		v0 ^= words[i];
	}
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
