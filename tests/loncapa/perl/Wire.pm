# The key of a connection to lond and the lines that it enciphers.
package Wire;
use strict;
use warnings;
use Exporter 'import';
our @EXPORT_OK = qw(shared_key encipher decipher has_cipher);

# CryptX is not part of Perl: without it everything works but requests that are enciphered.
my $cipher = eval { require Crypt::Cipher; require Crypt::Cipher::IDEA; 1 };

sub has_cipher { return $cipher }

# The key as 32 hex digits, from the ids of server and client and the build key.
sub shared_key {
    my ($server, $client, $build) = @_;
    my $ids = uc($server . $client);
    $ids =~ tr/G-P/0-9/;
    $ids =~ tr/Q-Z/0-9/;
    return unpack('H32', pack('H32', substr(($ids . $build) x 3, 0, 32)));
}

# The line `enc:LENGTH:HEX` for a text. There is always at least one space behind the text.
sub encipher {
    my ($key, $text) = @_;
    my $idea = Crypt::Cipher->new('IDEA', pack('H32', $key));
    my $length = length($text);
    my $padded = $text . ' ' x (8 - $length % 8);
    my $hex = join('', map { unpack('H16', $idea->encrypt($_)) } unpack('(a8)*', $padded));
    return "enc:$length:$hex";
}

# The text of such a line, or undef if the line is malformed.
sub decipher {
    my ($key, $line) = @_;
    my ($length, $hex) = $line =~ /^enc:(\d+):((?:[0-9A-Fa-f]{16})+)$/ or return;
    my $idea = Crypt::Cipher->new('IDEA', pack('H32', $key));
    my $text = join('', map { $idea->decrypt(pack('H16', $_)) } unpack('(a16)*', $hex));
    return if $length > length($text);
    return substr($text, 0, $length);
}

1;
