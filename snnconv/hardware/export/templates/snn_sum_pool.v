// y = sums of x over windows, one element of x a cycle; padding counts as 0.
module snn_sum_pool #(
    parameter CHANNELS = 1, parameter IN_ROWS = 1, parameter IN_COLUMNS = 1, parameter OUT_ROWS = 1, parameter OUT_COLUMNS = 1,
    parameter KERNEL_ROWS = 1, parameter KERNEL_COLUMNS = 1, parameter STRIDE_ROWS = 1, parameter STRIDE_COLUMNS = 1,
    parameter PADDING_ROWS = 0, parameter PADDING_COLUMNS = 0,
    parameter X_WIDTH = 2, parameter X_ADDRESS = 1, parameter Y_WIDTH = 8, parameter Y_ADDRESS = 1)
    (input clock, input start, output done,
     output [X_ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [Y_ADDRESS-1:0] y_address, output signed [Y_WIDTH-1:0] y);
    localparam PLACE = $clog2(IN_ROWS + IN_COLUMNS + 2 * PADDING_ROWS + 2 * PADDING_COLUMNS + KERNEL_ROWS + KERNEL_COLUMNS) + 2;
    localparam WINDOW = KERNEL_ROWS * KERNEL_COLUMNS;
    // the walk counts elements of windows, and these counters follow it
    localparam W_ADDRESS = $clog2(CHANNELS * OUT_ROWS * OUT_COLUMNS * WINDOW) + 1;
    wire valid, unused;
    wire [W_ADDRESS-1:0] address, at;
    snn_walk #(.CHANNELS(1), .EACH(CHANNELS * OUT_ROWS * OUT_COLUMNS * WINDOW), .ADDRESS(W_ADDRESS))
        walk (clock, start, address, unused, valid, at, done);
    reg [PLACE-1:0] top, left, i, j;
    reg [X_ADDRESS-1:0] plane; // address of the channel
    wire [PLACE-1:0] row = top + i - PADDING_ROWS, column = left + j - PADDING_COLUMNS;
    wire reached = row < IN_ROWS && column < IN_COLUMNS; // what would be below 0 is large
    wire row_ends = j == KERNEL_COLUMNS - 1, window_ends = row_ends && i == KERNEL_ROWS - 1;
    wire line_ends = window_ends && left == (OUT_COLUMNS - 1) * STRIDE_COLUMNS;
    wire plane_ends = line_ends && top == (OUT_ROWS - 1) * STRIDE_ROWS;
    assign x_address = reached ? plane + row * IN_COLUMNS + column : 0;
    always @(posedge clock)
        if (start) begin
            top <= 0; left <= 0; i <= 0; j <= 0; plane <= 0;
        end else begin
            j <= row_ends ? 0 : j + 1;
            if (row_ends) i <= window_ends ? 0 : i + 1;
            if (window_ends) left <= line_ends ? 0 : left + STRIDE_COLUMNS;
            if (line_ends) top <= plane_ends ? 0 : top + STRIDE_ROWS;
            if (plane_ends) plane <= plane + IN_ROWS * IN_COLUMNS;
        end

    reg was_reached, ends;
    reg signed [Y_WIDTH-1:0] sum;
    reg [Y_ADDRESS-1:0] window;
    wire signed [Y_WIDTH-1:0] total = was_reached ? sum + x : sum;
    always @(posedge clock) begin
        was_reached <= reached;
        ends <= window_ends;
        if (start) begin
            sum <= 0;
            window <= 0;
        end else if (valid) begin
            sum <= ends ? {Y_WIDTH{1'b0}} : total;
            if (ends) window <= window + 1;
        end
    end
    wire [Y_WIDTH-1:0] y_bits;
    assign y = y_bits;
    snn_ram #(.WIDTH(Y_WIDTH), .SIZE(CHANNELS * OUT_ROWS * OUT_COLUMNS), .ADDRESS(Y_ADDRESS))
        result_memory (clock, valid && ends, window, total, y_address, y_bits);
endmodule
