// y[i] = x[first + step * i] in channels, rows and columns; 0 where that lies beside x.
module snn_move #(
    parameter IN_CHANNELS = 1, parameter IN_ROWS = 1, parameter IN_COLUMNS = 1,
    parameter OUT_CHANNELS = 1, parameter OUT_ROWS = 1, parameter OUT_COLUMNS = 1,
    parameter FIRST_CHANNEL = 0, parameter FIRST_ROW = 0, parameter FIRST_COLUMN = 0,
    parameter STEP_CHANNEL = 1, parameter STEP_ROW = 1, parameter STEP_COLUMN = 1,
    parameter X_WIDTH = 2, parameter X_ADDRESS = 1, parameter Y_ADDRESS = 1)
    (input clock, input start, output done,
     output [X_ADDRESS-1:0] x_address, input signed [X_WIDTH-1:0] x,
     input [Y_ADDRESS-1:0] y_address, output signed [X_WIDTH-1:0] y);
    wire valid;
    wire [Y_ADDRESS-1:0] address, at, line;
    snn_walk #(.CHANNELS(OUT_CHANNELS * OUT_ROWS), .EACH(OUT_COLUMNS), .ADDRESS(Y_ADDRESS), .CHANNEL(Y_ADDRESS))
        walk (clock, start, address, line, valid, at, done);
    reg signed [31:0] channel, row, column; // the element of x to read
    wire reached = channel >= 0 && channel < IN_CHANNELS && row >= 0 && row < IN_ROWS && column >= 0 && column < IN_COLUMNS;
    wire row_ends = column == FIRST_COLUMN + (OUT_COLUMNS - 1) * STEP_COLUMN;
    wire channel_ends = row_ends && row == FIRST_ROW + (OUT_ROWS - 1) * STEP_ROW;
    reg was_reached;
    assign x_address = reached ? (channel * IN_ROWS + row) * IN_COLUMNS + column : 0;
    always @(posedge clock) begin
        was_reached <= reached;
        if (start) begin
            channel <= FIRST_CHANNEL;
            row <= FIRST_ROW;
            column <= FIRST_COLUMN;
        end else begin
            column <= row_ends ? FIRST_COLUMN : column + STEP_COLUMN;
            if (row_ends)
                row <= channel_ends ? FIRST_ROW : row + STEP_ROW;
            if (channel_ends)
                channel <= channel + STEP_CHANNEL;
        end
    end
    wire [X_WIDTH-1:0] y_bits;
    assign y = y_bits;
    snn_ram #(.WIDTH(X_WIDTH), .SIZE(OUT_CHANNELS * OUT_ROWS * OUT_COLUMNS), .ADDRESS(Y_ADDRESS))
        result_memory (clock, valid, at, was_reached ? x : {X_WIDTH{1'b0}}, y_address, y_bits);
endmodule
