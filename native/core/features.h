// Which instruction sets this process may use: what the CPU and the operating system offer, capped by RAREFY_ISA.
#pragma once

namespace rarefy {

// Ordered: every level contains the ones below it. avx512: F, BW, DQ and VL; vnni: and 8-bit dot products (Cascade Lake);
// vbmi2: and VBMI and VBMI2, which expand bytes and words (Ice Lake, Zen 4); amx: and 8-bit and bfloat16 tiles that the operating system lets this process use (Sapphire Rapids).
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, vnni = 3, vbmi2 = 4, amx = 5 };

struct Features {
  bool popcnt, bmi2, avx2, fma, avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni, avx512_vbmi, avx512_vbmi2, avx512_bf16, amx_bf16, amx_int8;
};

// What the CPU has and the operating system saves on a context switch (cpuid and xgetbv, asked once).
const Features& features() noexcept;

// The highest level whose feature bits are all there, without looking at RAREFY_ISA.
Isa detected_isa() noexcept;

// The level in force: detected, capped by RAREFY_ISA=scalar|avx2|avx512|vnni|vbmi2|amx.
// Throws std::invalid_argument when the variable holds anything else.
Isa allowed_isa();

const char* isa_name(Isa isa) noexcept;

}  // namespace rarefy
