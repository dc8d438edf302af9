// RAREFY_WHERE_<isa>(text): the text where that instruction set can be compiled for, nothing elsewhere.
#pragma once

#if defined(__x86_64__)
#define RAREFY_WHERE_avx2(...) __VA_ARGS__
#define RAREFY_WHERE_avx512(...) __VA_ARGS__
#define RAREFY_WHERE_vnni(...) __VA_ARGS__
#define RAREFY_WHERE_vbmi2(...) __VA_ARGS__
#define RAREFY_WHERE_amx(...) __VA_ARGS__
#else
#define RAREFY_WHERE_avx2(...)
#define RAREFY_WHERE_avx512(...)
#define RAREFY_WHERE_vnni(...)
#define RAREFY_WHERE_vbmi2(...)
#define RAREFY_WHERE_amx(...)
#endif
#define RAREFY_WHERE_scalar(...) __VA_ARGS__
