// y = (factor * x + half) >>> SHIFT, with one factor a channel; half of a unit rounds up.  SHIFT 0: the product.
module snn_scale #(
    parameter CHANNELS = 1, parameter EACH = 1, parameter X_WIDTH = 2, parameter Y_WIDTH = 32, parameter ADDRESS = 1,
    parameter SHIFT = 0, parameter F_WIDTH = 2, parameter FACTOR = "")
    (input clock, input start, output done,
     output [ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [ADDRESS-1:0] y_address, output signed [Y_WIDTH-1:0] y);
    localparam CHANNEL = CHANNELS > 1 ? $clog2(CHANNELS) : 1, WIDE = X_WIDTH + F_WIDTH + SHIFT + 1;
    localparam signed [WIDE-1:0] HALF = (1 << SHIFT) >> 1;
    wire valid;
    wire [ADDRESS-1:0] at;
    wire [CHANNEL-1:0] channel;
    snn_walk #(.CHANNELS(CHANNELS), .EACH(EACH), .ADDRESS(ADDRESS), .CHANNEL(CHANNEL))
        walk (clock, start, x_address, channel, valid, at, done);
    wire [F_WIDTH-1:0] factor_bits;
    wire signed [F_WIDTH-1:0] factor = factor_bits;
    snn_rom #(.WIDTH(F_WIDTH), .SIZE(CHANNELS), .ADDRESS(CHANNEL), .FILE(FACTOR)) factors (clock, channel, factor_bits);
    wire signed [WIDE-1:0] product = factor * x + HALF;
    wire signed [WIDE-1:0] shifted = product >>> SHIFT;
    wire [Y_WIDTH-1:0] y_bits;
    assign y = y_bits;
    snn_ram #(.WIDTH(Y_WIDTH), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
        result_memory (clock, valid, at, shifted[Y_WIDTH-1:0], y_address, y_bits);
endmodule
