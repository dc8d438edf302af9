// Target regions: code between BEGIN and END is compiled for an instruction set that the rest of the file must not use.
// Per-file -m flags would put such code into inline std:: functions that the linker shares with every other file.
#pragma once

#define RAREFY_SETS_AVX2 "avx2,fma,bmi2,popcnt,prfchw"
#define RAREFY_SETS_AVX512 RAREFY_SETS_AVX2 ",avx512f,avx512bw,avx512dq,avx512vl"
#define RAREFY_SETS_VNNI RAREFY_SETS_AVX512 ",avx512vnni"
#define RAREFY_SETS_VBMI2 RAREFY_SETS_VNNI ",avx512vbmi,avx512vbmi2"
#define RAREFY_SETS_AMX RAREFY_SETS_VBMI2 ",avx512bf16,amx-tile,amx-int8,amx-bf16"

#define RAREFY_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)  // knows no target pragma, but gives an attribute to every function of a region
#define RAREFY_REGION(sets) RAREFY_PRAGMA(clang attribute push(__attribute__((target(sets))), apply_to = function))
#define RAREFY_WIDE ""
#define RAREFY_END_REGION _Pragma("clang attribute pop")
#else
#define RAREFY_REGION(sets) _Pragma("GCC push_options") RAREFY_PRAGMA(GCC target(sets))
#define RAREFY_WIDE ",prefer-vector-width=512"
#define RAREFY_END_REGION _Pragma("GCC pop_options")
#endif

#define RAREFY_BEGIN_AVX2 RAREFY_REGION(RAREFY_SETS_AVX2)
#define RAREFY_BEGIN_AVX512 RAREFY_REGION(RAREFY_SETS_AVX512 RAREFY_WIDE)
#define RAREFY_BEGIN_VNNI RAREFY_REGION(RAREFY_SETS_VNNI RAREFY_WIDE)
#define RAREFY_BEGIN_VBMI2 RAREFY_REGION(RAREFY_SETS_VBMI2 RAREFY_WIDE)
#define RAREFY_BEGIN_AMX RAREFY_REGION(RAREFY_SETS_AMX RAREFY_WIDE)
