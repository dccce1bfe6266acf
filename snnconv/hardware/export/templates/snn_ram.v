// Block RAM with one write port and one synchronous read port: q holds cells[address] one cycle later.
module snn_ram #(parameter WIDTH = 8, parameter SIZE = 2, parameter ADDRESS = 1)
    (input clock, input write, input [ADDRESS-1:0] write_address, input [WIDTH-1:0] value,
     input [ADDRESS-1:0] address, output reg [WIDTH-1:0] q);
    reg [WIDTH-1:0] cells [0:SIZE-1];
    always @(posedge clock) begin
        if (write)
            cells[write_address] <= value;
        q <= cells[address];
    end
endmodule

// Block ROM, filled from a file of hexadecimal words.
module snn_rom #(parameter WIDTH = 8, parameter SIZE = 2, parameter ADDRESS = 1, parameter FILE = "")
    (input clock, input [ADDRESS-1:0] address, output reg [WIDTH-1:0] q);
    reg [WIDTH-1:0] cells [0:SIZE-1];
    initial $readmemh(FILE, cells);
    always @(posedge clock)
        q <= cells[address];
endmodule
