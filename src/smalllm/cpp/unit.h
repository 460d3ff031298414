// The matrix unit of Intel's server CPUs (AMX): eight tiles of 16 rows of 64 bytes.
//
// It adds the product of two tiles to a third, of 16 x 16 FP32 or int32. One has rows of inputs; of the other, a word
// of four bytes (2 BF16 or 4 int8) holds what one output takes of as many inputs.
#pragma once
#include "vectors.h"
#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512F__) && defined(__AVX512BF16__) && \
    defined(__linux__)
#define HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr int TILE_BYTES = 1024;

namespace {

#ifdef HAS_TILES
// The system must be asked first: the state of a thread grows by 8 KiB.
inline bool may_use_tiles() {
    constexpr int ask = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, ask, tiles) == 0;
}

inline void begin_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } eight_whole_ones;
    asm volatile("" ::"r"(&eight_whole_ones) : "memory");  // GCC 12 thinks that only its first bytes are read
    _tile_loadconfig(&eight_whole_ones);
}
inline void end_tiles() { _tile_release(); }
#else
inline bool may_use_tiles() { return false; }
inline void begin_tiles() {}
inline void end_tiles() {}
#endif

}  // namespace
