// y = x + z
module snn_add #(
    parameter SIZE = 1, parameter X_WIDTH = 32, parameter Z_WIDTH = 32, parameter Y_WIDTH = 32, parameter ADDRESS = 1)
    (input clock, input start, output done,
     output [ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x, input signed [Z_WIDTH-1:0] z,
     input [ADDRESS-1:0] y_address, output signed [Y_WIDTH-1:0] y);
    wire valid, channel;
    wire [ADDRESS-1:0] at;
    snn_walk #(.CHANNELS(1), .EACH(SIZE), .ADDRESS(ADDRESS)) walk (clock, start, x_address, channel, valid, at, done);
    wire signed [Y_WIDTH-1:0] sum = x + z;
    wire [Y_WIDTH-1:0] y_bits;
    assign y = y_bits;
    snn_ram #(.WIDTH(Y_WIDTH), .SIZE(SIZE), .ADDRESS(ADDRESS)) result_memory (clock, valid, at, sum, y_address, y_bits);
endmodule
