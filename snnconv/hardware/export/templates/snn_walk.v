// Counts through CHANNELS * EACH elements, one a cycle: `address` and `channel` are read addresses, and `valid` is high
// one cycle later, when the element `at` has been read.  `done` follows the last element.
module snn_walk #(parameter CHANNELS = 1, parameter EACH = 1, parameter ADDRESS = 1, parameter CHANNEL = 1)
    (input clock, input start, output reg [ADDRESS-1:0] address, output reg [CHANNEL-1:0] channel,
     output reg valid, output reg [ADDRESS-1:0] at, output reg done);
    reg active;
    reg [ADDRESS-1:0] place;
    initial {active, valid, done} = 0;
    always @(posedge clock) begin
        valid <= active;
        at <= address;
        done <= valid && !active;
        if (start) begin
            active <= 1;
            address <= 0;
            channel <= 0;
            place <= 0;
        end else if (active) begin
            active <= address != CHANNELS * EACH - 1;
            address <= address + 1;
            place <= place == EACH - 1 ? 0 : place + 1;
            if (place == EACH - 1)
                channel <= channel + 1;
        end
    end
endmodule
