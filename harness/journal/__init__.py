"""What a defense has answered to the attack at work, so that the attack can be continued after its process ended."""
