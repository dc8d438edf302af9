#include "core/features.h"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rarefy {
namespace {

#if defined(__x86_64__)
std::uint64_t enabled_states() noexcept {  // XCR0: which register files the operating system saves
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

Features detect() noexcept {
  Features found{};
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c & (1u << 27);
  if (!osxsave) return found;
  const std::uint64_t states = enabled_states();
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6, tiles = (states & 0x60000) == 0x60000;
  found.popcnt = c & (1u << 23);
  found.fma = ymm && (c & (1u << 12));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.bmi2 = b & (1u << 8);
  found.avx2 = ymm && (b & (1u << 5));
  found.avx512f = zmm && (b & (1u << 16));
  found.avx512dq = zmm && (b & (1u << 17));
  found.avx512bw = zmm && (b & (1u << 30));
  found.avx512vl = zmm && (b & (1u << 31));
  found.avx512_vbmi = zmm && (c & (1u << 1));
  found.avx512_vbmi2 = zmm && (c & (1u << 6));
  found.avx512_vnni = zmm && (c & (1u << 11));
  found.amx_bf16 = tiles && (d & (1u << 22));
  found.amx_int8 = tiles && (d & (1u << 25));
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx512_bf16 = zmm && (a & (1u << 5));
  return found;
}
#else
Features detect() noexcept { return {}; }
#endif

// Linux gives the tile registers only to a process that asks (arch_prctl 0x1023, for state component 18).
bool tiles_allowed() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const bool allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return allowed;
#else
  return false;
#endif
}

}  // namespace

const Features& features() noexcept {
  static const Features found = detect();
  return found;
}

Isa detected_isa() noexcept {
  const Features& f = features();
  if (!(f.avx2 && f.fma && f.bmi2 && f.popcnt)) return Isa::scalar;
  if (!(f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl)) return Isa::avx2;
  if (!f.avx512_vnni) return Isa::avx512;
  if (!(f.avx512_vbmi && f.avx512_vbmi2)) return Isa::vnni;
  return f.avx512_bf16 && f.amx_int8 && f.amx_bf16 && tiles_allowed() ? Isa::amx : Isa::vbmi2;
}

Isa allowed_isa() {
  const Isa found = detected_isa();
  const char* cap = std::getenv("RAREFY_ISA");
  if (cap == nullptr || *cap == '\0') return found;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::vnni, Isa::vbmi2, Isa::amx})
    if (std::string(cap) == isa_name(isa)) return isa < found ? isa : found;
  throw std::invalid_argument("RAREFY_ISA=" + std::string(cap) +
                              ": not an instruction set of this library; choose scalar, avx2, avx512, vnni, vbmi2 or amx, or unset it");
}

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::vbmi2: return "vbmi2";
    case Isa::vnni: return "vnni";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::scalar: break;
  }
  return "scalar";
}

}  // namespace rarefy
