#!/usr/bin/perl
# Clients that all send requests at once, each reply compared with its request:
#
#   perl load.pl [--lonnet 1|2] [--clients N] [--requests N] [--until FILE] [--signals NAME,NAME]
#                [--user NUMBER] DIRECTORY HOST ...
#
# Every second client keeps its connections, the others make a new one for each request. Each sends its share of
# the requests, or, with --until, sends until that file exists. Prints "lost" when a client gets no reply for the
# first time, "wrong: ..." for each wrong reply, and at the end the figures of all clients as NAME=NUMBER.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Getopt::Long;
use Lonnet qw(read_conf become ask signal_lonc expected pause);

my ($lonnet, $clients, $requests, $signals) = (1, 10, 2000, '');
my ($until, $user);
GetOptions(
    'lonnet=i' => \$lonnet, 'clients=i' => \$clients, 'requests=i' => \$requests, 'until=s' => \$until,
    'signals=s' => \$signals, 'user=i' => \$user,
) or exit(2);
my ($directory, @hosts) = @ARGV;
become($user) if defined($user);
read_conf($directory);
$| = 1;

my @figures = qw(done enciphered wrong lost retried);
pipe(my $read, my $write) or die "pipe: $!\n";
my %running;
for my $number (1 .. $clients) {
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        close($read);
        my $figures = client($number);
        syswrite($write, join(' ', @$figures{@figures}) . "\n");
        close($write);
        exit(0);
    }
    $running{$pid} = 1;
}
close($write);

my @names = split(/,/, $signals);
my %sent = map { $_ => 0 } @names;
my $turn = 0;
while (%running) {
    while ((my $pid = waitpid(-1, 1)) > 0) { delete($running{$pid}) }
    if (%running and @names and $turn % 5 == 4) {
        my $name = $names[ int($turn / 5) % @names ];
        defined(signal_lonc($name)) ? $sent{$name}++ : die "lonc does not run\n";
    }
    $turn++;
    pause(0.05);
}
my %sum = map { $_ => 0 } @figures;
while (<$read>) {
    my @of_client = split;
    $sum{ $figures[$_] } += $of_client[$_] for 0 .. $#figures;
}
print "$_=$sum{$_}\n" for @figures;
print "$_=$sent{$_}\n" for @names;

sub client {
    my ($number) = @_;
    srand($number);
    my %figure = map { $_ => 0 } @figures;
    my %kept;  # connections by socket
    my $share = int($requests / $clients) + ($number <= $requests % $clients);
    for (my $serial = 1; defined($until) ? !-e $until : $serial <= $share; $serial++) {
        my $id = $hosts[ rand(@hosts) ];
        my $request = request($number, $serial);
        my $enciphered = $request =~ s/^encrypt://;
        my $right = expected($id, $request);
        $request = "encrypt:$request" if $enciphered;
        my $keep = $number % 2 ? ($lonnet == 2 ? Lonnet::hostname($id) : $id) : '';
        my ($socket, $failed) = $keep && $kept{$keep} ? ($kept{$keep}, 0) : Lonnet::socket_of($lonnet, $id, 10);
        $figure{retried} += $failed;
        my $reply = $socket ? ask($socket, Lonnet::spoken($lonnet, $id, $request)) : undef;
        $kept{$keep} = defined($reply) ? $socket : undef if $keep;
        if (defined($reply) and $reply eq $right) {
            $figure{done}++;
            $figure{enciphered}++ if $request =~ /^encrypt:eget/;
        } elsif (!defined($reply) or $reply eq 'con_lost') {
            print "lost\n" unless $figure{lost}++;
            pause(0.01);
        } else {
            $figure{wrong}++;
            print "wrong: client $number, request $serial: $request: $reply\n";
        }
    }
    return \%figure;
}

# Of ten requests two get an enciphered reply, and one is enciphered and gets its reply in clear.
sub request {
    my ($number, $serial) = @_;
    my $text = "$number.$serial." . join('', map { chr(97 + rand(26)) } 1 .. rand(200));
    my $kind = rand(10);
    return "encrypt:eget:dom:user$number:nohist:$text" if $kind < 2;
    return "encrypt:auth:dom:user$number:$text" if $kind < 3;
    return 'ping' if $kind < 4;
    return "get:dom:user$number:nohist:$text" . 'x' x rand(2000);
}
