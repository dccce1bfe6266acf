// v <= v + x, within the membrane's width if SATURATE; a spike where v reaches the threshold, which it then loses.
// In the first timestep v is the initial potential of its channel, or of its element if EVERY.
module snn_fire #(
    parameter CHANNELS = 1, parameter EACH = 1, parameter X_WIDTH = 32, parameter V_WIDTH = 32, parameter ADDRESS = 1,
    parameter SATURATE = 0, parameter EVERY = 0, parameter T_WIDTH = 2, parameter S_WIDTH = 2, parameter THRESHOLD = "", parameter INITIAL = "")
    (input clock, input start, input first, output done,
     output [ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [ADDRESS-1:0] y_address, output signed [1:0] y);
    localparam CHANNEL = CHANNELS > 1 ? $clog2(CHANNELS) : 1;
    localparam WIDE = (X_WIDTH > V_WIDTH ? X_WIDTH : V_WIDTH) + 1;
    localparam signed [WIDE-1:0] MOST = {{WIDE-V_WIDTH+1{1'b0}}, {V_WIDTH-1{1'b1}}};
    wire valid;
    wire [ADDRESS-1:0] at;
    wire [CHANNEL-1:0] channel;
    snn_walk #(.CHANNELS(CHANNELS), .EACH(EACH), .ADDRESS(ADDRESS), .CHANNEL(CHANNEL))
        walk (clock, start, x_address, channel, valid, at, done);

    wire [T_WIDTH-1:0] threshold_bits;
    wire [S_WIDTH-1:0] initial_bits;
    wire [V_WIDTH-1:0] stored_bits;
    wire signed [T_WIDTH-1:0] threshold = threshold_bits;
    wire signed [S_WIDTH-1:0] initial_v = initial_bits;
    wire signed [V_WIDTH-1:0] stored = stored_bits;
    snn_rom #(.WIDTH(T_WIDTH), .SIZE(CHANNELS), .ADDRESS(CHANNEL), .FILE(THRESHOLD)) thresholds (clock, channel, threshold_bits);
    generate
        if (EVERY)
            snn_rom #(.WIDTH(S_WIDTH), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS), .FILE(INITIAL))
                initials (clock, x_address, initial_bits);
        else
            snn_rom #(.WIDTH(S_WIDTH), .SIZE(CHANNELS), .ADDRESS(CHANNEL), .FILE(INITIAL))
                initials (clock, channel, initial_bits);
    endgenerate

    wire signed [WIDE-1:0] held = first ? initial_v : stored;
    wire signed [WIDE-1:0] sum = held + x;
    wire signed [WIDE-1:0] charged = !SATURATE ? sum : sum > MOST ? MOST : sum < ~MOST ? ~MOST : sum;
    wire spike = charged >= threshold;
    wire signed [WIDE-1:0] left = spike ? charged - threshold : charged;
    wire bit_read;
    assign y = {1'b0, bit_read};
    snn_ram #(.WIDTH(V_WIDTH), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
        potentials (clock, valid, at, left[V_WIDTH-1:0], x_address, stored_bits);
    snn_ram #(.WIDTH(1), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
        spikes (clock, valid, at, spike, y_address, bit_read);
endmodule
