// How a line of conv8.inc becomes an identifier and the name that people see: r = channels apart, b = in a block.
#pragma once

#define RAREFY_CONV8_ID(isa, kind, rows, pixels) isa##_##kind##rows##_p##pixels
#define RAREFY_CONV8_NAME(isa, kind, rows, pixels) "conv8-" #isa "-" #kind #rows "-p" #pixels
#define RAREFY_CONV8_TOGETHER_r false
#define RAREFY_CONV8_TOGETHER_b true
