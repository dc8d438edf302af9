// How a line of spmv.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_SPMV_ID(isa, format) isa##_##format
#define RAREFY_SPMV_NAME(isa, format) "spmv-" #isa "-" #format
