// v <= v + x + bias, within the membrane's width if SATURATE; a spike where v reaches the threshold, which it then loses.
// In the first timestep v is the initial potential of its channel, or of its element if EVERY.
// The bias has ROWS rows of one value a channel, one row for each timestep; later timesteps use the last row.
// With NO_DEBT v is not negative before the first spike.
module snn_fire #(
    parameter CHANNELS = 1, parameter EACH = 1, parameter X_WIDTH = 32, parameter V_WIDTH = 32, parameter ADDRESS = 1,
    parameter SATURATE = 0, parameter EVERY = 0, parameter T_WIDTH = 2, parameter S_WIDTH = 2, parameter THRESHOLD = "", parameter INITIAL = "",
    parameter ROWS = 0, parameter B_WIDTH = 2, parameter B_ADDRESS = 1, parameter BIAS = "", parameter NO_DEBT = 0)
    (input clock, input start, input first, output done,
     output [ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [ADDRESS-1:0] y_address, output signed [1:0] y);
    localparam CHANNEL = CHANNELS > 1 ? $clog2(CHANNELS) : 1;
    localparam X_SUM = ROWS == 0 ? X_WIDTH : (X_WIDTH > B_WIDTH ? X_WIDTH : B_WIDTH) + 1;
    localparam WIDE = (X_SUM > V_WIDTH ? X_SUM : V_WIDTH) + 1;
    localparam signed [WIDE-1:0] MOST = {{WIDE-V_WIDTH+1{1'b0}}, {V_WIDTH-1{1'b1}}};
    wire valid;
    wire [ADDRESS-1:0] at;
    wire [CHANNEL-1:0] channel;
    snn_walk #(.CHANNELS(CHANNELS), .EACH(EACH), .ADDRESS(ADDRESS), .CHANNEL(CHANNEL))
        walk (clock, start, x_address, channel, valid, at, done);

    wire [T_WIDTH-1:0] threshold_bits;
    wire [S_WIDTH-1:0] initial_bits;
    wire [V_WIDTH-1:0] stored_bits;
    wire [B_WIDTH-1:0] bias_bits;
    wire fired_bit;
    wire signed [T_WIDTH-1:0] threshold = threshold_bits;
    wire signed [S_WIDTH-1:0] initial_v = initial_bits;
    wire signed [V_WIDTH-1:0] stored = stored_bits;
    wire signed [B_WIDTH-1:0] bias = bias_bits;
    snn_rom #(.WIDTH(T_WIDTH), .SIZE(CHANNELS), .ADDRESS(CHANNEL), .FILE(THRESHOLD)) thresholds (clock, channel, threshold_bits);
    generate
        if (EVERY)
            snn_rom #(.WIDTH(S_WIDTH), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS), .FILE(INITIAL))
                initials (clock, x_address, initial_bits);
        else
            snn_rom #(.WIDTH(S_WIDTH), .SIZE(CHANNELS), .ADDRESS(CHANNEL), .FILE(INITIAL))
                initials (clock, channel, initial_bits);
        if (ROWS == 0)
            assign bias_bits = 0;
        else begin
            reg [B_ADDRESS-1:0] row;
            always @(posedge clock)
                if (start)
                    row <= first ? 0 : row == (ROWS - 1) * CHANNELS ? row : row + CHANNELS;
            snn_rom #(.WIDTH(B_WIDTH), .SIZE(ROWS * CHANNELS), .ADDRESS(B_ADDRESS), .FILE(BIAS))
                biases (clock, row + channel, bias_bits);
        end
    endgenerate

    wire signed [WIDE-1:0] held = first ? initial_v : stored;
    wire signed [WIDE-1:0] sum = held + x + bias;
    wire signed [WIDE-1:0] charged = !SATURATE ? sum : sum > MOST ? MOST : sum < ~MOST ? ~MOST : sum;
    wire spike = charged >= threshold;
    wire fired = NO_DEBT ? fired_bit && !first : 1'b1;
    wire signed [WIDE-1:0] left = spike ? charged - threshold : !fired && charged < 0 ? 0 : charged;
    wire bit_read;
    assign y = {1'b0, bit_read};
    snn_ram #(.WIDTH(V_WIDTH), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
        potentials (clock, valid, at, left[V_WIDTH-1:0], x_address, stored_bits);
    snn_ram #(.WIDTH(1), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
        spikes (clock, valid, at, spike, y_address, bit_read);
    generate
        if (NO_DEBT)
            snn_ram #(.WIDTH(1), .SIZE(CHANNELS * EACH), .ADDRESS(ADDRESS))
                fired_before (clock, valid, at, spike || fired, x_address, fired_bit);
        else
            assign fired_bit = 1;
    endgenerate
endmodule
