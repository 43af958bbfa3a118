#!/usr/bin/perl
# One action of a program of LON-CAPA: perl client.pl [--lonnet 1|2] [--user NUMBER] DIRECTORY ACTION ...
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Getopt::Long;
use Lonnet qw(read_conf become open_socket subreply reply critical save_delayed signal_lonc running
    count_perm_log count_log);

my ($lonnet, $user, $spelled) = (1);
GetOptions('lonnet=i' => \$lonnet, 'user=i' => \$user, 'spelled=s' => \$spelled) or exit(2);
my ($directory, $action, @arguments) = @ARGV;
become($user) if defined($user);
my $variables = read_conf($directory);
$| = 1;

my %action = (
    # HOST REQUEST ...: the replies
    reply => sub {
        my ($id, @requests) = @arguments;
        print reply($lonnet, $id, $_, $spelled), "\n" for @requests;
    },
    # HOST USER NUMBER: so many requests of that user, one after the other; their replies
    critical => sub {
        my ($id, $of, $number) = @arguments;
        print critical($lonnet, $id, "put:dom:$of:nohist:number=$_"), "\n" for 1 .. $number;
    },
    # HOST REQUEST: saved in delayed/ without being sent
    save => sub { print save_delayed(@arguments), "\n" },
    # NAME: the pid that the signal was sent to
    signal => sub { print signal_lonc(@arguments) // 'not running', "\n" },
    pid => sub { print running() // 'not running', "\n" },
    # FILE: asks for lonc's pid until that file exists; dies of a pid file without a pid
    watch => sub {
        my ($end) = @arguments;
        print "watches\n";
        until (-e $end) { running() }
    },
    # SOCKET LINE: written, and the answer is not read
    write => sub {
        my ($name, $line) = @arguments;
        my $socket = open_socket("$variables->{lonSockDir}/$name") or die "$name: $!\n";
        print $socket "$line\n";
        close($socket);
    },
    # as loncron rotates it
    rotate => sub {
        my $file = "$variables->{lonDaemons}/logs/lonc.log";
        rename($file, "$file.1") or die "$file: $!\n";
    },
    perm => sub {
        my $count = count_perm_log();
        print map { "$_=$count->{$_}\n" } sort(keys(%$count));
    },
    log => sub {
        my ($count, @critical) = count_log();
        print map { "$_=$count->{$_}\n" } sort(keys(%$count));
        print @critical;
    },
);
($action{$action} or die "no action $action\n")->();
