// How a line of conv.inc becomes an identifier and the name that people see: r = channels apart, b = in a block.
#pragma once

#define RAREFY_CONV_ID(isa, kind, rows, pixels) isa##_##kind##rows##_p##pixels
#define RAREFY_CONV_NAME(isa, kind, rows, pixels) "conv-" #isa "-" #kind #rows "-p" #pixels
#define RAREFY_CONV_TOGETHER_r false
#define RAREFY_CONV_TOGETHER_b true
