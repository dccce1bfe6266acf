// y = multiplier * (weights * x) + bias, as event scatter: each x that is not 0 adds its weights to the sums that it reaches,
// one sum a cycle.  A linear layer is a convolution of one row and column.  The weights lie in the order
// [input channel, kernel row, kernel column, output channel of the group].  Coded weights need no multiplication:
// CODE 1: a sign (0: +1, 1: -1); CODE 2: a sign and three bits, 0 for weight 0 and k + 1 for 2^k.
module snn_weigh #(
    parameter IN_CHANNELS = 1, parameter IN_ROWS = 1, parameter IN_COLUMNS = 1,
    parameter OUT_CHANNELS = 1, parameter OUT_ROWS = 1, parameter OUT_COLUMNS = 1,
    parameter KERNEL_ROWS = 1, parameter KERNEL_COLUMNS = 1, parameter STRIDE_ROWS = 1, parameter STRIDE_COLUMNS = 1,
    parameter DILATION_ROWS = 1, parameter DILATION_COLUMNS = 1, parameter PADDING_ROWS = 0, parameter PADDING_COLUMNS = 0,
    parameter GROUPS = 1, parameter CODE = 0, parameter BINARY = 1, // BINARY: x is 0 or 1
    parameter X_WIDTH = 2, parameter X_ADDRESS = 1, parameter Y_WIDTH = 32, parameter Y_ADDRESS = 1,
    parameter W_WIDTH = 8, parameter M_WIDTH = 2, parameter B_WIDTH = 2,
    parameter WEIGHTS = "", parameter MULTIPLIER = "", parameter BIAS = "")
    (input clock, input start, output done,
     output [X_ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [Y_ADDRESS-1:0] y_address, output signed [Y_WIDTH-1:0] y);
    localparam IN_SIZE = IN_CHANNELS * IN_ROWS * IN_COLUMNS, AREA = OUT_ROWS * OUT_COLUMNS;
    localparam IN_GROUP = IN_CHANNELS / GROUPS, OUT_GROUP = OUT_CHANNELS / GROUPS;
    localparam FAN = KERNEL_ROWS * KERNEL_COLUMNS * OUT_GROUP, W_SIZE = IN_CHANNELS * FAN;
    localparam W_ADDRESS = W_SIZE > 1 ? $clog2(W_SIZE) : 1, CHANNEL = OUT_CHANNELS > 1 ? $clog2(OUT_CHANNELS) : 1;
    localparam PLACE = $clog2(IN_ROWS + IN_COLUMNS + KERNEL_ROWS * DILATION_ROWS + KERNEL_COLUMNS * DILATION_COLUMNS
                              + PADDING_ROWS + PADDING_COLUMNS) + 2;
    localparam IDLE = 0, CLEAR = 1, SCAN = 2, SCATTER = 3, FINISH = 4;

    reg [2:0] phase;
    initial phase = IDLE;

    // the input element, its place, the first weight of its channel, and the first sum of its group
    reg [X_ADDRESS-1:0] index;
    reg [PLACE-1:0] row, column;
    reg [X_ADDRESS-1:0] channel;
    reg [W_ADDRESS-1:0] channel_weights;
    reg [Y_ADDRESS-1:0] group_sums;

    // the place in the kernel, and the output channel
    reg [PLACE-1:0] i, j;
    reg [CHANNEL-1:0] o;
    reg [Y_ADDRESS-1:0] offset;
    reg [W_ADDRESS-1:0] place_weights;
    wire [PLACE-1:0] down = row + PADDING_ROWS - i * DILATION_ROWS, right = column + PADDING_COLUMNS - j * DILATION_COLUMNS;
    wire [PLACE-1:0] out_row = down / STRIDE_ROWS, out_column = right / STRIDE_COLUMNS;
    wire reached = !down[PLACE-1] && !right[PLACE-1] && down % STRIDE_ROWS == 0 && right % STRIDE_COLUMNS == 0
                  && out_row < OUT_ROWS && out_column < OUT_COLUMNS;
    wire place_done = !reached || o == OUT_GROUP - 1;
    wire kernel_done = place_done && i == KERNEL_ROWS - 1 && j == KERNEL_COLUMNS - 1;
    wire advance = (phase == SCAN && x == 0) || (phase == SCATTER && kernel_done);
    wire last = index == IN_SIZE - 1;
    assign x_address = advance && !last ? index + 1 : index;

    always @(posedge clock) begin
        case (phase)
            IDLE: if (start) phase <= CLEAR;
            CLEAR: if (walked) phase <= SCAN;
            SCAN: if (x != 0) phase <= SCATTER; else if (last) phase <= FINISH;
            SCATTER: if (kernel_done) phase <= last ? FINISH : SCAN;
            default: if (walked) phase <= IDLE;
        endcase
        if (phase == IDLE) begin
            index <= 0; row <= 0; column <= 0; channel <= 0; channel_weights <= 0; group_sums <= 0;
        end else if (advance) begin
            index <= index + 1;
            column <= column == IN_COLUMNS - 1 ? 0 : column + 1;
            if (column == IN_COLUMNS - 1) begin
                row <= row == IN_ROWS - 1 ? 0 : row + 1;
                if (row == IN_ROWS - 1) begin
                    channel <= channel == IN_GROUP - 1 ? 0 : channel + 1;
                    channel_weights <= channel_weights + FAN;
                    if (channel == IN_GROUP - 1)
                        group_sums <= group_sums + OUT_GROUP * AREA;
                end
            end
        end
        if (phase != SCATTER) begin
            i <= 0; j <= 0; o <= 0; offset <= 0; place_weights <= channel_weights;
        end else if (place_done) begin
            o <= 0;
            offset <= 0;
            place_weights <= place_weights + OUT_GROUP;
            j <= j == KERNEL_COLUMNS - 1 ? 0 : j + 1;
            if (j == KERNEL_COLUMNS - 1)
                i <= i + 1;
        end else begin
            o <= o + 1;
            offset <= offset + AREA;
        end
    end

    // one cycle after its address, a sum has been read and is written back with the weight added
    reg adding;
    reg [Y_ADDRESS-1:0] add_at;
    reg signed [X_WIDTH-1:0] event_x;
    wire [Y_ADDRESS-1:0] sum_address = group_sums + offset + out_row * OUT_COLUMNS + out_column;
    initial adding = 0;
    always @(posedge clock) begin
        adding <= phase == SCATTER && reached;
        add_at <= sum_address;
        event_x <= x;
    end
    wire [W_WIDTH-1:0] weight_bits;
    snn_rom #(.WIDTH(W_WIDTH), .SIZE(W_SIZE), .ADDRESS(W_ADDRESS), .FILE(WEIGHTS))
        weights (clock, place_weights + o, weight_bits);
    wire signed [Y_WIDTH-1:0] input_value = BINARY ? 1 : event_x;
    wire signed [Y_WIDTH-1:0] product;
    generate
        if (CODE == 1)
            assign product = weight_bits[0] ? -input_value : input_value;
        else if (CODE == 2) begin : powers
            wire signed [Y_WIDTH-1:0] size = weight_bits[2:0] == 0 ? 0 : input_value <<< (weight_bits[2:0] - 3'd1);
            assign product = weight_bits[3] ? -size : size;
        end else begin : integers
            wire signed [W_WIDTH-1:0] weight = weight_bits;
            if (BINARY)
                assign product = weight;
            else
                assign product = weight * event_x;
        end
    endgenerate

    // all sums become 0 before the events, and are multiplied after them
    wire valid, walked;
    wire [Y_ADDRESS-1:0] walk_address, walk_at;
    wire [CHANNEL-1:0] walk_channel;
    reg entered;
    always @(posedge clock)
        entered <= (phase == IDLE && start) || ((phase == SCAN || phase == SCATTER) && advance && last);
    initial entered = 0;
    snn_walk #(.CHANNELS(OUT_CHANNELS), .EACH(AREA), .ADDRESS(Y_ADDRESS), .CHANNEL(CHANNEL))
        walk (clock, entered, walk_address, walk_channel, valid, walk_at, walked);
    wire [M_WIDTH-1:0] multiplier_bits;
    wire [B_WIDTH-1:0] bias_bits;
    wire signed [M_WIDTH-1:0] multiplier = multiplier_bits;
    wire signed [B_WIDTH-1:0] bias = bias_bits;
    snn_rom #(.WIDTH(M_WIDTH), .SIZE(OUT_CHANNELS), .ADDRESS(CHANNEL), .FILE(MULTIPLIER))
        multipliers (clock, walk_channel, multiplier_bits);
    snn_rom #(.WIDTH(B_WIDTH), .SIZE(OUT_CHANNELS), .ADDRESS(CHANNEL), .FILE(BIAS))
        biases (clock, walk_channel, bias_bits);

    wire signed [Y_WIDTH-1:0] sum = y, result = multiplier * sum + bias;
    wire [Y_WIDTH-1:0] y_bits;
    assign y = y_bits;
    assign done = phase == FINISH && walked;
    snn_ram #(.WIDTH(Y_WIDTH), .SIZE(OUT_CHANNELS * AREA), .ADDRESS(Y_ADDRESS)) result_memory
        (clock, adding || valid, adding ? add_at : walk_at, adding ? sum + product : phase == CLEAR ? {Y_WIDTH{1'b0}} : result,
         phase == IDLE ? y_address : phase == FINISH ? walk_address : sum_address, y_bits);
endmodule
